//! A backend that is no Rust: `examples/backend-in-c`, compiled here and served like any other.

#![allow(clippy::unwrap_used, clippy::panic)] // A test may panic, and so may its helpers.

use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;
use tokenmill_backend::Backend;
use tokenmill_e2e::{Client, Setup};

/// Built as the example's README says.
fn compile(example: &Path) -> PathBuf {
    let file = format!("{}markov{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(file);
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let status = Command::new(compiler)
        .args(["-std=c99", "-O2", "-fPIC", "-shared", "-I"])
        .arg(example.join("../../backends/abi/include"))
        .arg(example.join("markov.c"))
        .arg("-o")
        .arg(&library)
        .args(["-lm", "-lpthread"])
        .status();
    assert!(status.unwrap().success());
    library
}

/// What the model has read stands in its source; greedily it goes on with what followed there.
#[test]
fn it_serves_text() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/backend-in-c");
    let backend = Backend::open(&compile(&example)).unwrap();
    let source = std::fs::read_to_string(example.join("markov.c")).unwrap();
    let setup = Setup { dir: example.join("model"), backend: Some(backend), ..Setup::default() };
    let server = setup.start();
    let mut client = Client::new(server.address);
    let mut body = json!({
        "prompt": "The mill turns when the river", "max_tokens": 24, "temperature": 0, "return_token_ids": true
    });
    let answer = client.post("/v1/completions", &body).ok();
    let choice = &answer["choices"][0];
    let text = choice["text"].as_str().unwrap();
    assert!(!text.is_empty());
    // Byte by byte, every three in a row stand in what it read.
    let all = format!("river{text}");
    for three in all.as_bytes().windows(3) {
        let three = std::str::from_utf8(three).unwrap().replace('\n', "\\n");
        assert!(source.contains(&three), "{three:?} of {all:?}");
    }
    let ids: Vec<u64> = choice["token_ids"].as_array().unwrap().iter().filter_map(|id| id.as_u64()).collect();
    let bytes: Vec<u64> = text.bytes().map(u64::from).collect();
    assert_eq!(ids.iter().copied().filter(|id| *id < 256).collect::<Vec<_>>(), bytes, "a token is a byte");
    body["stream"] = json!(true);
    let streamed = client.stream("/v1/completions", &body);
    assert!(streamed.done);
    assert_eq!(streamed.text(0), text);
    server.settle();
}
