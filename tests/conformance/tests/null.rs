//! The suite on the null backend, opened from its library file as a user would.

#![allow(clippy::unwrap_used)] // A test may panic, and so may its helpers.

use std::path::{Path, PathBuf};

use tokenmill_backend::Backend;
use tokenmill_conformance::run;

/// Cargo puts the libraries of dev-dependencies beside the test.
fn library(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let file = format!("{}{name}{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    test.parent().unwrap().join(file)
}

#[test]
fn null_conforms() {
    let backend = Backend::open(&library("tokenmill_null")).unwrap();
    for options in ["vocab=257", "vocab=32000\ncheck=0", "vocab=33\ncontext=64\nstep_us=200"] {
        let report = run(&backend, Path::new("unused"), options);
        println!("{report}");
        assert!(report.passed(), "options {options:?}\n{report}");
    }
}
