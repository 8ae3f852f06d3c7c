//! The suite on the null backend, opened from its library file as a user would.

#![allow(clippy::unwrap_used, clippy::panic)] // A test may panic, and so may its helpers.

mod common;

use std::path::Path;

use tokenmill_backend::Backend;
use tokenmill_conformance::run;

#[test]
fn null_conforms() {
    // By name: the library lies beside this program.
    let path = Backend::find("null").unwrap();
    assert_eq!(path, common::beside("tokenmill_null").canonicalize().unwrap());
    let backend = Backend::open(&path).unwrap();
    for options in ["vocab=257", "vocab=32000\ncheck=0", "vocab=33\ncontext=64\nstep_us=200"] {
        let report = run(&backend, Path::new("unused"), options);
        println!("{report}");
        assert!(report.passed(), "options {options:?}\n{report}");
    }
}
