//! `cargo xtask gpu`: one folder with all that a machine with an NVIDIA GPU, and nothing of ours, needs to check and
//! measure the CUDA backend: `bench/gpu/run.sh` and what it runs.

use crate::{
    kernels,
    process::{cargo, command, output, root, run},
};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};

const PACKAGE: &str = "tokenmill-backend-cuda";
/// The whole folder, uncompressed: transfers to such machines may be limited.
const MAX_BYTES: u64 = 60 << 20;
/// Those that a real GPU can pass or fail; the others are about the emulator's faults and its several devices.
const TESTS: [&str; 4] = ["kernels", "backend", "conformance", "steady"];
/// Of `bench/gpu/`.
const SCRIPTS: [&str; 5] = ["run.sh", "peers.py", "generation.py", "make_model.py", "README.md"];
/// Of `tests/fixtures/`.
const FIXTURES: [&str; 2] = ["models", "smollm2"];

/// Something that cargo built.
struct Artifact {
    name: String,
    is_test: bool,
    path: PathBuf,
}

pub(crate) fn prepare() -> Result<()> {
    kernels::build()?;
    let folder = root().join("target/gpu-check");
    let _ = fs::remove_dir_all(&folder);
    // All beside each other, as the libraries are looked for.
    let programs = folder.join("bin");
    fs::create_dir_all(&programs)?;
    let packages = ["-p", PACKAGE, "-p", "tokenmill-backend-cpu", "-p", "tokenmill-cli"];
    for artifact in artifacts("build", &[&packages[..], &["--lib", "--bins", "--examples"]].concat())? {
        // Plugins are libraries, too, and built into the program.
        if !artifact.name.starts_with("tokenmill_plugin") {
            strip(&artifact.path, &programs.join(artifact.path.file_name().unwrap_or_default()))?;
        }
    }
    let tests: Vec<&str> = TESTS.iter().flat_map(|name| ["--test", name]).collect();
    for artifact in artifacts("test", &[&["--no-run", "-p", PACKAGE], &tests[..]].concat())? {
        if artifact.is_test {
            strip(&artifact.path, &programs.join(format!("test-{}", artifact.name)))?;
        }
    }
    for script in SCRIPTS {
        fs::copy(root().join("bench/gpu").join(script), folder.join(script))
            .with_context(|| format!("bench/gpu/{script}"))?;
    }
    for name in FIXTURES {
        copy_folder(&root().join("tests/fixtures").join(name), &folder.join("fixtures").join(name))?;
    }
    fs::write(folder.join("commit"), commit()?)?;
    report(&folder)
}

/// Runs cargo and returns the programs and shared libraries of ours that it made.
fn artifacts(task: &str, arguments: &[&str]) -> Result<Vec<Artifact>> {
    let how = ["--release", "--message-format=json-render-diagnostics"];
    let text = output(cargo().arg(task).args(how).args(arguments))?;
    let messages = text.lines().filter_map(|line| serde_json::from_str(line).ok());
    Ok(messages.filter_map(|message| artifact(&message)).collect())
}

/// What one message of cargo is about.
fn artifact(message: &Value) -> Option<Artifact> {
    let ours = Path::new(message["manifest_path"].as_str()?).starts_with(root());
    let (target, program) = (&message["target"], message["executable"].as_str());
    let is_library = target["kind"].as_array()?.iter().any(|kind| kind == "cdylib");
    let mut files = message["filenames"].as_array()?.iter().filter_map(Value::as_str);
    let path = program.or_else(|| files.find(|file| is_library && file.ends_with(".so")))?;
    let name = target["name"].as_str()?.to_owned();
    let is_test = target["kind"][0] == "test";
    ours.then(|| Artifact { name, is_test, path: path.into() })
}

fn strip(from: &Path, to: &Path) -> Result<()> {
    run(command("strip").arg("--strip-unneeded").arg("-o").arg(to).arg(from))
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// The commit this is made of, and whether the tree has more.
fn commit() -> Result<String> {
    let commit = output(command("git").args(["rev-parse", "--short", "HEAD"]))?;
    let changes = output(command("git").args(["status", "--porcelain", "--untracked-files=no"]))?;
    let more = if changes.is_empty() { "" } else { ", and changes" };
    Ok(format!("{}{more}", commit.trim()))
}

/// Prints what the folder holds, and fails if that is too much or the essential is not there.
fn report(folder: &Path) -> Result<()> {
    let mut total = 0;
    for entry in fs::read_dir(folder)?.chain(fs::read_dir(folder.join("bin"))?) {
        let path = entry?.path();
        let bytes = size(&path)?;
        let shown = path.strip_prefix(folder).unwrap_or(&path);
        println!("{:>10} KB  {}", bytes.div_ceil(1024), shown.display());
        total += if shown.starts_with("bin") && shown.components().count() > 1 { 0 } else { bytes };
    }
    for needed in ["libtokenmill_cuda.so", "tokenmill", "test-kernels", "bench_cuda"] {
        if !folder.join("bin").join(needed).exists() {
            bail!("{needed} was not built");
        }
    }
    if total > MAX_BYTES {
        bail!("{total} bytes in {}: at most {MAX_BYTES} are allowed", folder.display());
    }
    println!(
        "{:.1} MiB in {}: copy it to a machine with an NVIDIA GPU, and run run.sh there",
        total as f64 / f64::from(1 << 20),
        folder.display()
    );
    Ok(())
}

fn size(path: &Path) -> Result<u64> {
    if !path.is_dir() {
        return Ok(fs::metadata(path)?.len());
    }
    fs::read_dir(path)?.map(|entry| size(&entry?.path())).sum()
}
