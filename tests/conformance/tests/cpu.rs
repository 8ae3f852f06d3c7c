//! The suite on the CPU backend, opened as a library, with a small llama model. Alone in its process, whose threads
//! and memory it counts.

#![allow(clippy::unwrap_used, clippy::panic)] // A test may panic, and so may its helpers.

mod common;

use tokenmill_backend::Backend;
use tokenmill_conformance::{Ranks, run_on};

#[test]
fn cpu_conforms_on_one_rank_and_several() {
    let backend = Backend::open(&common::beside("tokenmill_cpu")).unwrap();
    let model = common::repository().join("tests/fixtures/models/llama-gqa");
    for (options, devices, tensor_parallel) in [
        ("threads=2", &[0][..], 1),
        ("dtype=bf16\nkv_dtype=bf16\nthreads=1", &[0], 1),
        // Ranks that share the layers, ranks that follow each other, both.
        ("threads=2", &[0; 2], 2),
        ("threads=2", &[0; 2], 1),
        ("threads=2", &[0; 4], 2),
    ] {
        let report = run_on(&backend, &model, options, Ranks { devices, tensor_parallel });
        println!("{report}");
        assert!(report.passed(), "options {options:?}, {devices:?} / {tensor_parallel}\n{report}");
    }
}
