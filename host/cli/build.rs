//! Puts the sources that `tokenmill policy new` copies into the program: the contract, and the crates that a
//! policy is made with.
#![allow(clippy::print_stdout, reason = "this is how cargo is told")]

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

/// Where they are in this repository, and in a new project.
const COPIED: [(&str, &str); 6] = [
    ("wit", "wit"),
    ("host/policy", "vendor/policy"),
    ("plugins/guest", "vendor/guest"),
    ("plugins/common", "vendor/common"),
    ("plugins/Cargo.toml", "Cargo.toml"),
    ("plugins/Cargo.lock", "Cargo.lock"),
];

fn main() -> io::Result<()> {
    let var = |name| env::var_os(name).map(PathBuf::from).ok_or_else(|| io::Error::other(name));
    let root = var("CARGO_MANIFEST_DIR")?.join("../..").canonicalize()?;
    let mut files = Vec::new();
    for (from, to) in COPIED {
        let from = root.join(from);
        println!("cargo::rerun-if-changed={}", from.display());
        collect(&from, Path::new(to), &mut files)?;
    }
    files.sort();
    let lines = files.iter().map(|(from, to)| format!("    ({to:?}, include_str!({from:?})),\n"));
    let list = format!("&[\n{}]\n", lines.collect::<String>());
    fs::write(var("OUT_DIR")?.join("vendored.rs"), list)
}

/// Manifests, sources and contracts, but no tests.
fn collect(from: &Path, to: &Path, files: &mut Vec<(PathBuf, PathBuf)>) -> io::Result<()> {
    if from.is_file() {
        files.push((from.to_owned(), to.to_owned()));
        return Ok(());
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != "tests" && name != "target" && name != "README.md" {
            collect(&entry.path(), &to.join(&name), files)?;
        }
    }
    Ok(())
}
