//! `cargo xtask plugins`: every policy in `plugins/` as a component in `target/plugins/`.

mod examples;
mod toolchain;

use crate::process::{output, root, run};
use anyhow::{Context, Result};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use toolchain::{TARGET, Toolchain};

/// Of the names of their crates.
const PREFIX: &str = "tokenmill-plugin-";

#[derive(clap::Args)]
pub(crate) struct Plugins {
    /// The example in Python, too: 18 MB, and a minute at first.
    #[arg(long)]
    all: bool,
    /// Install what is missing, where that is root's `apt-get`.
    #[arg(long)]
    install: bool,
}

pub(crate) fn task(plugins: &Plugins) -> Result<()> {
    if plugins.all { all(plugins.install) } else { build(plugins.install) }
}

/// As `build`, and the example in Python.
pub(crate) fn all(install: bool) -> Result<()> {
    build(install)?;
    examples::in_python()
}

/// Builds what has changed: the policies in Rust and the example in C.
pub(crate) fn build(install: bool) -> Result<()> {
    let toolchain = Toolchain::find(install)?;
    println!("components are built with {}", toolchain.name());
    let policies = policies()?;
    let mut cargo = cargo();
    toolchain.prepare(&mut cargo);
    cargo.args(["build", "--release", "--target", TARGET]);
    for policy in &policies {
        cargo.args(["-p", &format!("{PREFIX}{policy}")]);
    }
    run(&mut cargo)?;
    let built = root().join("target/guests").join(TARGET).join("release");
    for policy in &policies {
        let file = format!("{PREFIX}{policy}.wasm").replace('-', "_");
        publish(&built.join(file), policy)?;
    }
    examples::in_c(&toolchain, install)
}

/// The same policies compiled for this machine, and their tests.
pub(crate) fn test() -> Result<()> {
    run(cargo().args(["test", "--release"]))
}

/// Cargo in the workspace of policies, all of whose targets share one folder.
fn cargo() -> Command {
    let mut cargo = crate::process::cargo();
    cargo.current_dir(root().join("plugins")).env("CARGO_TARGET_DIR", root().join("target/guests"));
    cargo
}

/// The names of the crates that become components.
fn policies() -> Result<Vec<String>> {
    let text = output(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    let is_library =
        |target: &Value| target["kind"].as_array().is_some_and(|all| all.contains(&"cdylib".into()));
    let components =
        packages.iter().filter(|package| package["targets"].as_array().into_iter().flatten().any(is_library));
    let names = components.filter_map(|package| package["name"].as_str());
    Ok(names.map(|name| name.trim_start_matches(PREFIX).to_owned()).collect())
}

/// Where component `name` belongs.
pub(crate) fn place(name: &str) -> PathBuf {
    root().join("target/plugins").join(format!("{name}.wasm"))
}

/// Copies a component to its place if it is another one: a server may be watching the file.
fn publish(from: &Path, name: &str) -> Result<()> {
    let to = place(name);
    let bytes = fs::read(from).with_context(|| format!("{} was not built", from.display()))?;
    if fs::read(&to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let folder = root().join("target/plugins");
    fs::create_dir_all(&folder)?;
    let new = folder.join(format!(".{name}.new"));
    fs::write(&new, &bytes)?;
    fs::rename(&new, &to).with_context(|| format!("cannot write {}", to.display()))?;
    println!("{name}: {} KB", bytes.len().div_ceil(1024));
    Ok(())
}
