//! The suite that any backend must pass. Alone in its process, whose threads and memory it counts.

#![allow(clippy::unwrap_used, clippy::panic)] // A test may panic, and so may its helpers.

#[path = "backend/support.rs"]
mod support;

use support::{cuda, fixtures};
use tokenmill_conformance::run;

#[test]
fn cuda_conforms() {
    for options in ["dtype=bf16\ngraphs=on", "graphs=off"] {
        let report = run(&cuda(), &fixtures().join("models/llama-gqa"), options);
        println!("{report}");
        assert!(report.passed(), "options {options:?}\n{report}");
    }
}
