//! Which crate may depend on which: the ladder of ARCHITECTURE.md, compared with what cargo says.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use std::{collections::BTreeSet, process::Command};

/// Every crate of ours and the crates of ours it may use (dev-dependencies are free).
const LADDER: &[(&str, &[&str])] = &[
    ("tokenmill-backend-abi", &[]),
    ("tokenmill-backend-model", &[]),
    ("tokenmill-backend-export", &["tokenmill-backend-abi", "tokenmill-backend-model"]),
    (
        "tokenmill-backend-cpu",
        &["tokenmill-backend-abi", "tokenmill-backend-export", "tokenmill-backend-model"],
    ),
    ("tokenmill-backend-cuda", &["tokenmill-backend-export", "tokenmill-backend-model", "tokenmill-kernels"]),
    ("tokenmill-kernels", &[]),
    ("tokenmill-emulator", &[]),
    ("tokenmill-backend-null", &["tokenmill-backend-abi"]),
    ("tokenmill-kv", &[]),
    ("tokenmill-policy", &[]),
    ("tokenmill-text", &[]),
    ("tokenmill-models", &[]),
    ("tokenmill-backend", &["tokenmill-backend-abi"]),
    ("tokenmill-engine", &["tokenmill-backend", "tokenmill-kv", "tokenmill-policy"]),
    ("tokenmill-grammar", &["tokenmill-policy"]),
    ("tokenmill-wasm", &["tokenmill-policy"]),
    ("tokenmill-http", &["tokenmill-engine", "tokenmill-grammar", "tokenmill-policy", "tokenmill-text"]),
    (
        "tokenmill-cli",
        &[
            "tokenmill-backend",
            "tokenmill-backend-cpu",
            "tokenmill-conformance",
            "tokenmill-engine",
            "tokenmill-grammar",
            "tokenmill-http",
            "tokenmill-kv",
            "tokenmill-models",
            "tokenmill-plugin-beam-search",
            "tokenmill-plugin-best-of-n",
            "tokenmill-policy",
            "tokenmill-text",
            "tokenmill-wasm",
        ],
    ),
    ("tokenmill-conformance", &["tokenmill-backend"]),
    (
        "tokenmill-e2e",
        &["tokenmill-backend", "tokenmill-engine", "tokenmill-http", "tokenmill-policy", "tokenmill-text"],
    ),
    (
        "tokenmill-fuzz",
        &[
            "tokenmill-backend",
            "tokenmill-backend-null",
            "tokenmill-engine",
            "tokenmill-policy",
            "tokenmill-wasm",
        ],
    ),
    (
        "tokenmill-policies",
        &[
            "tokenmill-backend",
            "tokenmill-engine",
            "tokenmill-plugin-beam-search",
            "tokenmill-plugin-best-of-n",
            "tokenmill-plugin-budget",
            "tokenmill-plugin-dry",
            "tokenmill-plugin-mirostat-v2",
            "tokenmill-plugin-standard",
            "tokenmill-plugin-typical",
            "tokenmill-plugin-watermark",
            "tokenmill-plugin-xtc",
            "tokenmill-policy",
            "tokenmill-text",
            "tokenmill-wasm",
        ],
    ),
    ("tokenmill-tidy", &[]),
    ("xtask", &[]),
];

#[test]
fn every_crate_depends_only_on_what_the_ladder_allows() {
    let mut wrong = Vec::new();
    let packages = packages();
    for package in &packages {
        let name = package["name"].as_str().unwrap();
        let Some((_, allowed)) = LADDER.iter().find(|(crate_name, _)| *crate_name == name) else {
            wrong.push(format!("{name} is not in the ladder of tests/tidy/tests/ladder.rs"));
            continue;
        };
        for dependency in package["dependencies"].as_array().unwrap() {
            let used = dependency["name"].as_str().unwrap();
            // Those of `plugins/`, another workspace, count too.
            let ours = used == "xtask" || used.starts_with("tokenmill-");
            if ours && dependency["kind"] != "dev" && !allowed.contains(&used) {
                wrong.push(format!("{name} may not depend on {used}"));
            }
        }
    }
    let names: BTreeSet<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    wrong.extend(
        LADDER
            .iter()
            .filter(|(name, _)| !names.contains(name))
            .map(|(name, _)| format!("{name} is in the ladder only")),
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn packages() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let out = Command::new(cargo).args(["metadata", "--format-version", "1", "--no-deps"]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let metadata: Value = serde_json::from_slice(&out.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}
