//! The suite on the CPU backend, opened as a library, with a small llama model.

#![allow(clippy::unwrap_used, clippy::panic)] // A test may panic, and so may its helpers.

mod common;

use tokenmill_backend::Backend;
use tokenmill_conformance::{Ranks, run, run_on};

#[test]
fn cpu_conforms() {
    let backend = Backend::open(&common::beside("tokenmill_cpu")).unwrap();
    let model = common::repository().join("tests/fixtures/models/llama-gqa");
    for options in ["threads=2", "dtype=bf16\nkv_dtype=bf16\nthreads=1"] {
        let report = run(&backend, &model, options);
        println!("{report}");
        assert!(report.passed(), "options {options:?}\n{report}");
    }
}

#[test]
fn cpu_conforms_on_several_ranks() {
    let backend = Backend::open(&common::beside("tokenmill_cpu")).unwrap();
    let model = common::repository().join("tests/fixtures/models/llama-gqa");
    // Ranks that share the layers, ranks that follow each other, both.
    for (devices, tensor_parallel) in [(&[0; 2][..], 2), (&[0; 2], 1), (&[0; 4], 2)] {
        let report = run_on(&backend, &model, "threads=2", Ranks { devices, tensor_parallel });
        println!("{report}");
        assert!(report.passed(), "{} ranks, {tensor_parallel} per stage\n{report}", devices.len());
    }
}
