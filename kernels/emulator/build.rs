//! Builds the emulator, its driver and every kernel into `$OUT_DIR/libcuda.so.1`, with a C++ compiler and nothing else.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, exit},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::SystemTime,
};

const FLAGS: &[&str] = include!("flags.rs");

struct Unit {
    source: PathBuf,
    object: PathBuf,
}

fn main() {
    let folder = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(variable("OUT_DIR"));
    let kernels = folder.parent().unwrap_or(&folder).to_path_buf();
    let include = kernels.join("include");
    let cpp = folder.join("cpp");
    // New kernels appear in the folder itself.
    println!("cargo:rerun-if-changed={}", kernels.display());
    println!("cargo:rerun-if-env-changed=CXX");

    let headers = [&include, &cpp, &cpp.join("driver"), &cpp.join("nccl")]
        .into_iter()
        .flat_map(|folder| files(folder, &["h", "cuh"]))
        .map(|path| changed(&path))
        .max()
        .unwrap_or(SystemTime::UNIX_EPOCH);
    let driver = units(&[cpp.clone(), cpp.join("driver")], "cpp", &out)
        .into_iter()
        .chain(units(&[kernels], "cu", &out))
        .collect::<Vec<_>>();
    let nccl = units(&[cpp.join("nccl")], "cpp", &out);
    let stale =
        driver.iter().chain(&nccl).filter(|unit| changed(&unit.object) < changed(&unit.source).max(headers));
    compile(&stale.collect::<Vec<_>>(), &include);

    link(&driver, &out, "libcuda.so.1", &[]);
    if !nccl.is_empty() {
        link(&nccl, &out, "libnccl.so.2", &["-L.", "-l:libcuda.so.1", "-Wl,-rpath,$ORIGIN"]);
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| stop(&format!("{name} is not set")))
}

#[expect(clippy::print_stderr, reason = "cargo shows it when a build script fails")]
fn stop(why: &str) -> ! {
    println!("cargo:warning=tokenmill-emulator: {}", why.lines().next().unwrap_or_default());
    eprintln!("{why}");
    exit(1);
}

fn files(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension().is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted))
        })
        .collect();
    found.sort();
    found
}

/// Older than everything if it is not there.
fn changed(path: &Path) -> SystemTime {
    fs::metadata(path).and_then(|about| about.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn units(folders: &[PathBuf], extension: &str, out: &Path) -> Vec<Unit> {
    let sources = folders.iter().flat_map(|folder| files(folder, &[extension]));
    sources
        .map(|source| {
            let of = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
            let folder = of(source.parent().and_then(Path::file_name));
            let object = out.join(format!("{folder}-{}.{extension}.o", of(source.file_stem())));
            Unit { source, object }
        })
        .collect()
}

fn compiler() -> String {
    env::var("CXX").unwrap_or_else(|_| "c++".into())
}

fn compile(units: &[&Unit], include: &Path) {
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1usize);
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..jobs.min(units.len()) {
            scope.spawn(|| {
                while let Some(unit) = units.get(next.fetch_add(1, Ordering::Relaxed)) {
                    compile_one(unit, include);
                }
            });
        }
    });
}

fn compile_one(unit: &Unit, include: &Path) {
    // A file that changes while it is compiled is compiled again the next time.
    let unfinished = unit.object.with_extension("unfinished");
    let mut command = Command::new(compiler());
    command
        .args(FLAGS)
        .arg("-I")
        .arg(include)
        .args(["-x", "c++", "-c"])
        .arg(&unit.source)
        .arg("-o")
        .arg(&unfinished);
    run(&mut command, &format!("compiling {}", unit.source.display()));
    if let Err(error) = fs::rename(&unfinished, &unit.object) {
        stop(&format!("{}: {error}", unit.object.display()));
    }
}

fn link(units: &[Unit], out: &Path, name: &str, with: &[&str]) {
    let mut command = Command::new(compiler());
    command.current_dir(out).args(["-shared", "-pthread", "-Wl,-z,defs", "-Wl,-Bsymbolic", "-o", name]);
    command.arg(format!("-Wl,-soname,{name}")).args(units.iter().map(|unit| &unit.object)).args(with);
    run(&mut command, &format!("linking {name}"));
}

fn run(command: &mut Command, what: &str) {
    match command.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => stop(&format!("{what} failed\n{}", String::from_utf8_lossy(&output.stderr))),
        Err(error) => stop(&format!(
            "{what}: the C++ compiler `{}` cannot be run ({error}); install g++ or set CXX",
            compiler()
        )),
    }
}
