//! Where libraries are, and how the C example becomes one.

#![allow(dead_code)] // Each test uses a part of this.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Cargo puts the libraries of dev-dependencies beside the test.
pub(crate) fn beside(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().join(file_name(name))
}

fn file_name(name: &str) -> String {
    format!("{}{name}{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX)
}

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub(crate) fn c_source() -> String {
    std::fs::read_to_string(repository().join("examples/backend-in-c/markov.c")).unwrap()
}

/// Compiles C text as the example's README says, into a library of its own.
pub(crate) fn compile(name: &str, source: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let (file, library) = (folder.join("backend.c"), folder.join(file_name("backend")));
    std::fs::write(&file, source).unwrap();
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let out = Command::new(&compiler)
        .args(["-std=c99", "-O2", "-fPIC", "-shared", "-I"])
        .arg(repository().join("backends/abi/include"))
        .arg(&file)
        .arg("-o")
        .arg(&library)
        .args(["-lm", "-lpthread"])
        .output()
        .unwrap_or_else(|error| panic!("cannot run {compiler}: {error}"));
    assert!(out.status.success(), "{name}:\n{}", String::from_utf8_lossy(&out.stderr));
    library
}
