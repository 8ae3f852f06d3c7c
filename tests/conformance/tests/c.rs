//! The suite on the example backend in C: it conforms.

#![allow(clippy::unwrap_used, clippy::panic)] // A test may panic, and so may its helpers.

mod common;

use std::path::Path;

use tokenmill_backend::{Backend, Manifest};
use tokenmill_conformance::run;

#[test]
fn the_example_in_c_conforms() {
    let library = common::compile("markov", &common::c_source());
    let manifest = Manifest::read(&library).unwrap();
    assert_eq!((manifest.name.as_str(), manifest.major), ("markov", 1));
    let report = run(&Backend::open(&library).unwrap(), Path::new("unused"), "");
    println!("{report}");
    assert!(report.passed(), "{report}");
}
