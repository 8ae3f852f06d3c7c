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
/// Of `bench/gpu/`.
const SCRIPTS: [&str; 5] = ["run.sh", "peers.py", "generation.py", "make_model.py", "README.md"];
/// Of `tests/fixtures/`.
const FIXTURES: [&str; 2] = ["models", "smollm2"];

/// Something that cargo built.
struct Artifact {
    name: String,
    /// `bin`, `example`, `test`, `cdylib`.
    kind: String,
    path: PathBuf,
}

pub(crate) fn prepare() -> Result<()> {
    kernels::build()?;
    let folder = root().join("target/gpu-check");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("tests"))?;
    let packages = ["--release", "-p", PACKAGE, "-p", "tokenmill-cli", "--lib", "--bins", "--examples"];
    for artifact in artifacts("build", &packages)? {
        let is_library = artifact.kind == "cdylib" && artifact.name == "tokenmill_cuda";
        let is_program = artifact.name == "tokenmill" || artifact.kind == "example";
        if is_library || is_program {
            strip(&artifact.path, &folder.join(artifact.path.file_name().unwrap_or_default()))?;
        }
    }
    for artifact in artifacts("test", &["--release", "--no-run", "-p", PACKAGE, "--test", "*"])? {
        let place =
            if artifact.name == "kernels" { "kernels".into() } else { format!("tests/{}", artifact.name) };
        strip(&artifact.path, &folder.join(place))?;
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

/// Runs cargo and returns the programs and shared libraries it made.
fn artifacts(task: &str, arguments: &[&str]) -> Result<Vec<Artifact>> {
    let text = output(cargo().arg(task).args(arguments).arg("--message-format=json-render-diagnostics"))?;
    let mut found = Vec::new();
    for line in text.lines() {
        let Ok(message) = serde_json::from_str::<Value>(line) else { continue };
        if message["reason"] != "compiler-artifact" {
            continue;
        }
        let of = |key: &str| message["target"][key].clone();
        let library = message["filenames"].as_array().into_iter().flatten();
        let library = library.filter_map(Value::as_str).find(|path| path.ends_with(".so"));
        let Some(path) = message["executable"].as_str().or(library) else { continue };
        let kind = if message["executable"].is_string() { of("kind")[0].clone() } else { "cdylib".into() };
        found.push(Artifact {
            name: of("name").as_str().unwrap_or_default().to_owned(),
            kind: kind.as_str().unwrap_or_default().to_owned(),
            path: path.into(),
        });
    }
    Ok(found)
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
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let bytes = size(&path)?;
        println!("{:>10} KB  {}", bytes.div_ceil(1024), path.file_name().unwrap_or_default().display());
        total += bytes;
    }
    for needed in ["libtokenmill_cuda.so", "tokenmill", "kernels", "bench_cuda"] {
        if !folder.join(needed).exists() {
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
