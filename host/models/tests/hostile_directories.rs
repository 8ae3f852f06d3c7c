//! Hostile model directories get errors that name the file and the key, quickly, and read nothing outside.
#![allow(clippy::unwrap_used)]
use serde_json::{Value, json};
use std::{fs, path::Path};
use tempfile::TempDir;
use tokenmill_models::check;

fn config() -> Value {
    json!({"model_type": "llama", "vocab_size": 4, "hidden_size": 2, "num_hidden_layers": 1,
           "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "rope_theta": 1e4})
}

/// A safetensors file from a header and a number of data bytes.
fn safetensors(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

fn info(dtype: &str, shape: &str, start: u64, end: u64) -> String {
    format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#)
}

fn honest() -> Vec<u8> {
    safetensors(&format!(r#"{{"model.embed_tokens.weight":{}}}"#, info("F32", "[4,2]", 0, 32)), 32)
}

fn model() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), config().to_string()).unwrap();
    fs::write(dir.path().join("model.safetensors"), honest()).unwrap();
    dir
}

/// The error of a directory; it must name `file` and say `words`.
fn refused(dir: &Path, file: &str, words: &str) {
    let error = check(dir).expect_err(words).to_string();
    assert!(error.contains(file) && error.contains(words), "{error:?} does not say {file} {words:?}");
}

#[test]
fn an_honest_directory_passes_and_code_in_it_is_ignored_aloud() {
    let dir = model();
    let mut with_code = config();
    with_code["auto_map"] = json!({"AutoModelForCausalLM": "modeling_evil.Evil"});
    fs::write(dir.path().join("config.json"), with_code.to_string()).unwrap();
    fs::write(dir.path().join("pytorch_model.bin"), "not read").unwrap();
    let report = check(dir.path()).unwrap();
    assert_eq!((report.tensors, report.weight_bytes), (1, 32));
    assert!(report.notes.iter().any(|n| n.contains("auto_map")));
    assert!(report.notes.iter().any(|n| n.contains("pytorch_model.bin")));
}

#[test]
fn weights_that_are_only_pickle_are_refused() {
    let dir = model();
    fs::rename(dir.path().join("model.safetensors"), dir.path().join("pytorch_model.bin")).unwrap();
    refused(dir.path(), "pytorch_model.bin", "pickle");
}

#[test]
fn hostile_safetensors_headers_are_refused() {
    let one = |dtype: &str, shape: &str, start, end| format!(r#"{{"t":{}}}"#, info(dtype, shape, start, end));
    let two = |a: String, b: String| format!(r#"{{"a":{a},"b":{b}}}"#);
    let twice = format!(r#"{{"t":{0},"t":{0}}}"#, info("F32", "[1]", 0, 4));
    let dims = format!("[{}]", vec!["1"; 1 << 20].join(","));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("larger than", [&u64::MAX.to_le_bytes()[..], b"{}"].concat()),
        ("larger than", safetensors(&" ".repeat((16 << 20) + 1), 0)),
        ("header", safetensors("[1]", 0)),
        ("header", safetensors(&"[".repeat(100_000), 0)),
        ("twice", safetensors(&twice, 4)),
        ("overlaps", safetensors(&two(info("F32", "[2]", 0, 8), info("F32", "[2]", 4, 12)), 12)),
        ("hole", safetensors(&two(info("F32", "[1]", 0, 4), info("F32", "[1]", 8, 12)), 12)),
        ("the file has", safetensors(&one("F32", "[2]", 0, 8), 4)),
        ("the file has", safetensors(&one("F32", "[1]", 0, 4), 8)),
        ("end before start", safetensors(&one("F32", "[1]", 8, 4), 8)),
        ("overflows", safetensors(&one("F32", "[4294967296,4294967296]", 0, 4), 4)),
        ("overflows", safetensors(&one("F32", "[0,18446744073709551615]", 0, 0), 0)),
        ("header", safetensors(&one("F32", "[-1]", 0, 4), 4)),
        ("dimensions", safetensors(&one("F32", &dims, 0, 4), 4)),
        ("dtype", safetensors(&one("F99", "[1]", 0, 4), 4)),
        ("does not take", safetensors(&one("F32", "[3]", 0, 4), 4)),
        (
            "vocab_size",
            safetensors(&format!(r#"{{"model.embed_tokens.weight":{}}}"#, info("F32", "[9,2]", 0, 72)), 72),
        ),
    ];
    for (words, bytes) in cases {
        let dir = model();
        fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
        let file = if words == "vocab_size" { "config.json" } else { "model.safetensors" };
        refused(dir.path(), file, words);
    }
}

#[test]
fn every_truncation_of_an_honest_file_is_refused() {
    let (dir, whole) = (model(), honest());
    for len in 0..whole.len() {
        fs::write(dir.path().join("model.safetensors"), &whole[..len]).unwrap();
        refused(dir.path(), "model.safetensors", "");
    }
}

#[test]
fn too_many_tensors_are_refused() {
    let entries: Vec<String> =
        (0..65_537u64).map(|i| format!(r#""{i}":{}"#, info("U8", "[1]", i, i + 1))).collect();
    let dir = model();
    fs::write(
        dir.path().join("model.safetensors"),
        safetensors(&format!("{{{}}}", entries.join(",")), 65_537),
    )
    .unwrap();
    refused(dir.path(), "model.safetensors", "65536 tensors");
}

#[test]
fn hostile_configs_are_refused_by_key() {
    let cases = [
        ("num_attention_heads", json!(0)),
        ("num_attention_heads", json!(3)),
        ("num_key_value_heads", json!(0)),
        ("num_key_value_heads", json!(7)),
        ("num_hidden_layers", json!(1u64 << 31)),
        ("num_hidden_layers", json!("many")),
        ("vocab_size", json!(0)),
        ("vocab_size", json!(-1)),
        ("hidden_size", json!(2.5)),
        ("head_dim", json!(1u64 << 40)),
        ("rope_theta", json!(0)),
        ("rope_theta", json!("NaN")),
        ("rms_norm_eps", json!(-1e-5)),
        ("model_type", json!(null)),
        ("text_config", json!([])),
    ];
    for (key, value) in cases {
        let (dir, mut bad) = (model(), config());
        bad[key] = value;
        fs::write(dir.path().join("config.json"), bad.to_string()).unwrap();
        refused(dir.path(), "config.json", key);
    }
    for key in ["model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"] {
        let (dir, mut bad) = (model(), config());
        bad.as_object_mut().unwrap().remove(key);
        fs::write(dir.path().join("config.json"), bad.to_string()).unwrap();
        refused(dir.path(), "config.json", key);
    }
    for text in [r#"{"rope_theta": NaN}"#, r#"{"rope_theta": 1e999}"#, "", "[]"] {
        let dir = model();
        fs::write(dir.path().join("config.json"), text).unwrap();
        refused(dir.path(), "config.json", "");
    }
}

#[test]
fn an_index_cannot_lead_out_or_promise_what_is_not_there() {
    for (file, words) in [
        ("../../etc/passwd", "not a .safetensors file"),
        ("/etc/x.safetensors", "not a .safetensors file"),
        ("missing.safetensors", "does not exist"),
    ] {
        let dir = model();
        fs::remove_file(dir.path().join("model.safetensors")).unwrap();
        let index = json!({"weight_map": {"model.embed_tokens.weight": file}}).to_string();
        fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
        refused(dir.path(), "model.safetensors.index.json", words);
    }
    let dir = model();
    fs::rename(dir.path().join("model.safetensors"), dir.path().join("a.safetensors")).unwrap();
    let index =
        json!({"weight_map": {"model.embed_tokens.weight": "a.safetensors", "lost": "a.safetensors"}});
    fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    refused(dir.path(), "model.safetensors.index.json", "lost is not in");
    fs::copy(dir.path().join("a.safetensors"), dir.path().join("b.safetensors")).unwrap();
    let index = json!({"weight_map": {"model.embed_tokens.weight": "a.safetensors", "x": "b.safetensors"}});
    fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    refused(dir.path(), "b.safetensors", "in two weight files");
}

#[cfg(unix)]
#[test]
fn links_out_pipes_and_folders_are_refused_without_hanging() {
    for file in ["model.safetensors", "config.json", "tokenizer.json"] {
        let (outside, dir) = (model(), model());
        let path = dir.path().join(file);
        fs::write(outside.path().join("x"), "{}").unwrap();
        let _ = fs::remove_file(&path);
        std::os::unix::fs::symlink(outside.path().join("x"), &path).unwrap();
        refused(dir.path(), file, "leads out");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        refused(dir.path(), file, "not a regular file");
        fs::remove_dir(&path).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        refused(dir.path(), file, "not a regular file");
    }
}

/// `snapshots/REVISION/FILE` links into `blobs/` in a Hugging Face cache; that is the one way out.
#[cfg(unix)]
#[test]
fn a_hugging_face_cache_can_be_used_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (root.path().join("blobs"), root.path().join("snapshots/abc"));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(blobs.join("1"), config().to_string()).unwrap();
    fs::write(blobs.join("2"), honest()).unwrap();
    std::os::unix::fs::symlink("../../blobs/1", snapshot.join("config.json")).unwrap();
    std::os::unix::fs::symlink("../../blobs/2", snapshot.join("model.safetensors")).unwrap();
    assert_eq!(check(&snapshot).unwrap().tensors, 1);
}
