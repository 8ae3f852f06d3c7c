//! Hostile tokenizer files are errors at load that name the file, never panics, aborts or hangs.
#![allow(clippy::unwrap_used, clippy::panic)]
use serde_json::{Value, json};
use std::path::Path;
use tokenmill_text::{TextError, Tokenizer};

/// The good tokenizer of the fixtures.
fn good() -> Value {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/llama-gqa/tokenizer.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn load(text: &str) -> Result<Tokenizer, TextError> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), text).unwrap();
    Tokenizer::from_dir(dir.path())
}

fn refused(change: impl FnOnce(&mut Value), words: &str) {
    let mut json = good();
    change(&mut json);
    match load(&json.to_string()) {
        Ok(_) => panic!("loaded: {words}"),
        Err(TextError::File { path, reason }) => {
            assert!(
                path.ends_with("tokenizer.json") && reason.contains(words),
                "{reason:?} does not say {words:?}"
            );
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn parts_known_to_panic_or_abort_are_refused() {
    refused(|j| j["pre_tokenizer"] = json!({"type": "FixedLength", "length": 0}), "FixedLength");
    let hidden = json!({"type": "Sequence", "pretokenizers": [{"type": "FixedLength", "length": 0}]});
    refused(|j| j["pre_tokenizer"] = hidden, "FixedLength");
    refused(|j| j["decoder"] = json!({"type": "Strip", "content": "a", "start": 5, "stop": 5}), "Strip");
    let template = json!({"type": "TemplateProcessing", "pair": [], "special_tokens": {},
        "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]});
    refused(|j| j["post_processor"] = template, "TemplateProcessing");
    // Sizes of 4 GiB and 2 GiB in a charsmap of a few bytes; no base64; empty.
    for map in ["/////w==", "AAAAgAAA", "????????", ""] {
        refused(
            |j| j["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": map}),
            "Precompiled",
        );
    }
    let double = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
    let bomb = json!({"type": "Sequence", "normalizers": vec![double; 40]});
    refused(|j| j["normalizer"] = bomb, "times longer");
}

#[test]
fn truncation_and_padding_of_the_file_are_not_used() {
    let mut json = good();
    json["truncation"] =
        json!({"max_length": 2, "stride": 5, "strategy": "LongestFirst", "direction": "Right"});
    json["padding"] = json!({"strategy": {"Fixed": 4000000000u64}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"});
    match load(&json.to_string()) {
        Ok(tokenizer) => assert_eq!(tokenizer.encode("hello hello hello", false).unwrap().len(), 4),
        Err(TextError::File { .. }) => {}
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn impossible_ids_are_refused() {
    refused(|j| j["model"]["vocab"]["hel"] = json!(u32::MAX), "not a usable vocabulary");
    refused(|j| j["model"]["vocab"]["hel"] = json!(1u64 << 32), "");
    refused(|j| j["model"]["vocab"]["hel"] = json!(-1), "");
    refused(|j| j["model"]["vocab"]["hel"] = json!(279), "two tokens");
    refused(|j| j["added_tokens"][0]["id"] = json!(u32::MAX), "added_tokens");
    refused(|j| j["model"]["vocab"] = json!({}), "");
    refused(|j| j["model"]["merges"] = json!([["no", "such"]]), "");
}

#[test]
fn broken_files_are_refused() {
    for text in ["", "{}", "[]", "null", "{\"model\": 1}", &"[".repeat(100_000), "{\"version\": \"1.0\""] {
        assert!(matches!(load(text), Err(TextError::File { .. })), "{text:.40}");
    }
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Tokenizer::from_dir(dir.path()), Err(TextError::File { .. })));
    std::fs::create_dir(dir.path().join("tokenizer.json")).unwrap();
    assert!(matches!(Tokenizer::from_dir(dir.path()), Err(TextError::File { .. })));
}

/// A regular expression with exponential backtracking: the engine's own limit must stop it.
#[test]
fn a_catastrophic_split_does_not_hang() {
    let mut json = good();
    json["pre_tokenizer"] =
        json!({"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": false});
    let (send, answer) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let text = format!("{}!", "a".repeat(40));
        send.send(load(&json.to_string()).map(|t| t.encode(&text, false).is_ok()).is_ok())
    });
    answer.recv_timeout(std::time::Duration::from_secs(60)).unwrap();
}
