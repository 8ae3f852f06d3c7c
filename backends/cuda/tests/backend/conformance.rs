//! The suite that any backend must pass.

use tokenmill_conformance::run;

use crate::support::{cuda, fixtures};

fn conforms(options: &str) {
    let report = run(&cuda(), &fixtures().join("models/llama-gqa"), options);
    println!("{report}");
    assert!(report.passed(), "options {options:?}\n{report}");
}

#[test]
fn conforms_in_f32_with_graphs() {
    conforms("graphs=on");
}

#[test]
fn conforms_in_bf16_without_graphs() {
    conforms("dtype=bf16\ngraphs=off");
}
