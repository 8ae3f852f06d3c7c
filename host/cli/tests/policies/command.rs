//! `tokenmill policy …`

use crate::guests::always;
use crate::server::{said, tokenmill};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn policy(folder: &Path, args: &[&str]) -> Output {
    tokenmill(&folder.join("home")).current_dir(folder).arg("policy").args(args).output().unwrap()
}

#[test]
fn check_says_what_a_component_is() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("good.wasm"), always(7)).unwrap();
    fs::write(folder.path().join("bad.wasm"), b"\0asm\x01\0\0\0").unwrap();
    let good = policy(folder.path(), &["check", "good.wasm"]);
    assert_eq!(good.status.code(), Some(0), "{}", said(&good));
    assert!(said(&good).contains("tokenmill:policy/sampler@0.1.0"), "{}", said(&good));
    let good = policy(folder.path(), &["check", "good.wasm", "--json"]);
    let report: Value = serde_json::from_slice(&good.stdout).unwrap();
    assert_eq!((&report["ok"], &report["kind"]), (&Value::from(true), &Value::from("sampler")));

    let bad = policy(folder.path(), &["check", "bad.wasm"]);
    assert_eq!(bad.status.code(), Some(1));
    assert!(said(&bad).contains("core module"), "{}", said(&bad));
    let none = policy(folder.path(), &["check", "none.wasm"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(said(&none).contains("cannot read none.wasm"), "{}", said(&none));
}

#[test]
fn bench_has_figures_for_every_size() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("good.wasm"), always(7)).unwrap();
    let out = policy(folder.path(), &["bench", "good.wasm", "--json"]);
    assert_eq!(out.status.code(), Some(0), "{}", said(&out));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    let steps = report["steps"].as_array().unwrap();
    let rows: Vec<_> = steps.iter().map(|step| step["rows"].as_u64().unwrap()).collect();
    assert_eq!(rows, [1, 64, 256, 1024]);
    assert!(steps.iter().all(|step| step["us_per_step"].as_f64().unwrap() > 0.0), "{report}");
    let unknown = policy(folder.path(), &["bench", "good.wasm", "--native", "none"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(said(&unknown).contains("--native none"), "{}", said(&unknown));
}

/// As plain libraries; `cargo xtask plugins` has the tools to build components.
#[test]
fn new_projects_build_and_pass_their_tests() {
    let folder = tempfile::tempdir().unwrap();
    for kind in ["sampler", "scheduler"] {
        let name = format!("my-{kind}");
        let out = policy(folder.path(), &["new", &name, "--kind", kind]);
        assert_eq!(out.status.code(), Some(0), "{}", said(&out));
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(folder.path().join(&name)).env("CARGO_TARGET_DIR", folder.path().join("target"));
        let out = cargo.args(["test", "--quiet"]).output().unwrap();
        assert!(out.status.success(), "{}", said(&out));
        assert!(said(&out).contains("1 passed"), "{}", said(&out));
        let twice = policy(folder.path(), &["new", &name, "--kind", kind]);
        assert!(said(&twice).contains("is there already"), "{}", said(&twice));
    }
    let out = policy(folder.path(), &["new", "../evil", "--kind", "sampler"]);
    assert!(!out.status.success() && said(&out).contains("a policy's name"), "{}", said(&out));
}
