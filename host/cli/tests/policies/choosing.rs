//! What flags and files choose, and what becomes of it in requests.

use crate::guests::{always, sampler, tired};
use crate::server::{Server, Stream, said, serve};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::fs;
use tempfile::TempDir;

/// A folder with files.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn named(folder: &TempDir, name: &str) -> String {
    format!("{}={}", name, folder.path().join(format!("{name}.wasm")).display())
}

#[test]
fn a_request_names_its_sampler() {
    let folder = folder(&[("seven.wasm", &always(7)), ("nine.wasm", &always(9))]);
    let flags = ["--sampler", &named(&folder, "seven"), "--sampler", &named(&folder, "nine")];
    let server = Server::start(&flags);
    assert_eq!(server.tokens(Some("seven"), 4), [7; 4]);
    assert_eq!(server.tokens(Some("nine"), 4), [9; 4]);
    assert_ne!(server.tokens(None, 4), [7; 4]);
    let reply = server.complete(&json!({ "prompt": [5], "policy": { "sampler": "eight" } }));
    assert_eq!(reply.status, 400, "{}", reply.body);
}

#[test]
fn a_file_names_policies_and_the_default() {
    let component = always(7);
    let digest: String = Sha256::digest(&component).iter().map(|byte| format!("{byte:02x}")).collect();
    let list = json!({
        "policies": [{ "name": "seven", "kind": "sampler", "file": "seven.wasm", "sha256": digest }],
        "default_sampler": "seven",
    });
    let folder = folder(&[("seven.wasm", &component), ("list.json", list.to_string().as_bytes())]);
    let path = folder.path().join("list.json").display().to_string();
    let server = Server::start(&["--policies", &path]);
    assert_eq!(server.tokens(None, 4), [7; 4]);
    // All requests need it.
    assert_eq!(server.operate("DELETE", "/admin/policies/seven").error(), (409, "policy_conflict".into()));
    assert_eq!(server.tokens(None, 4), [7; 4]);

    fs::write(folder.path().join("seven.wasm"), always(9)).unwrap();
    let out = serve(folder.path(), &["--policies", &path]).output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(said(&out).contains("policies[0] (seven): `sha256` is"), "{}", said(&out));
}

#[test]
fn a_start_with_a_bad_policy_fails_and_says_which() {
    let folder = folder(&[("a.wasm", b"\0asm\x01\0\0\0"), ("b.wasm", &always(7))]);
    let b = named(&folder, "b");
    for (flags, parts) in [
        (&["--sampler", &named(&folder, "a")][..], &["--sampler a=", "core module"][..]),
        (&["--sampler", &named(&folder, "none")], &["--sampler none=", "none.wasm"]),
        (&["--scheduler", b.trim_start_matches("b=")], &["--scheduler b=", "sampler"]),
        (&["--admin-port", "0"], &["--admin-key"]),
        (&["--admin-port", "0", "--admin-key", "k", "--api-key", "k"], &["--admin-key"]),
    ] {
        let out = serve(folder.path(), flags).output().unwrap();
        assert_eq!(out.status.code(), Some(1), "{}", said(&out));
        assert!(parts.iter().all(|part| said(&out).contains(part)), "{}", said(&out));
    }
}

#[test]
fn an_enforcing_policy_that_fails_fails_its_request() {
    let folder = folder(&[("tired.wasm", &tired()), ("lax.wasm", &tired())]);
    let flags =
        ["--sampler", &named(&folder, "tired"), "--enforcing", "tired", "--sampler", &named(&folder, "lax")];
    let server = Server::start(&flags);
    let plain = server.tokens(None, 60);
    assert_eq!(server.tokens(Some("lax"), 60), plain, "the default decides where a policy fails");
    assert_eq!(Stream::begin(&server.address, "tired", 60).rest(), Err("plugin_failed".to_owned()));
    let body =
        json!({ "prompt": [5], "max_tokens": 60, "ignore_eos": true, "policy": { "sampler": "tired" } });
    assert_eq!(server.complete(&body).error(), (500, "plugin_failed".into()));
    assert_eq!(server.tokens(None, 60), plain);

    let metrics = crate::server::send(&server.address, "GET", "/metrics", &[], b"").body;
    let value = |name: &str, labels: &str| -> f64 {
        let line = metrics.lines().find(|line| line.starts_with(name) && line.contains(labels));
        line.unwrap_or_else(|| panic!("no {name}: {metrics}")).rsplit(' ').next().unwrap().parse().unwrap()
    };
    for policy in ["tired", "lax"] {
        let label = format!("policy=\"{policy}\",kind=\"sampler\"");
        assert!(value("tokenmill_policy_calls_total", &label) >= 20.0);
        assert!(value("tokenmill_policy_failures_total", &format!("{label},reason=\"trap\"")) >= 1.0);
        assert_eq!(value("tokenmill_policy_failures_total", &format!("{label},reason=\"deadline\"")), 0.0);
        assert_eq!(value("tokenmill_policy_quarantined", &label), 0.0);
    }
}

#[test]
fn beam_search_works_without_any_flag_and_can_be_replaced() {
    let server = Server::start(&[]);
    let body = json!({ "prompt": [5], "max_tokens": 4, "use_beam_search": true, "n": 2, "best_of": 3 });
    let reply = server.complete(&body);
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(reply.json()["choices"].as_array().unwrap().len(), 2, "{}", reply.body);
    assert_eq!(server.operate("GET", "/admin/policies").json()["data"], json!([]));

    assert_eq!(server.put("beam-search", &always(7)).status, 200);
    assert_eq!(server.tokens(Some("beam-search"), 3), [7; 3]);
    assert_eq!(server.operate("DELETE", "/admin/policies/beam-search").status, 200);
    let again = server.complete(&body);
    assert_eq!(again.json()["choices"], reply.json()["choices"]);
}

#[test]
fn a_policy_that_decides_nothing_changes_nothing() {
    let folder = folder(&[("none.wasm", &sampler(""))]);
    let server = Server::start(&["--sampler", &named(&folder, "none")]);
    assert_eq!(server.tokens(Some("none"), 40), server.tokens(None, 40));
}
