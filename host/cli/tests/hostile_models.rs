//! A server with a hostile model directory: refuses to start, or answers 400 and goes on; its helpers end with it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};
use tempfile::TempDir;

/// Renders "hi" honestly; for "bomb" it doubles a list sixty times and compares it with another.
const TEMPLATE: &str = "{% for m in messages %}{{ m.content }}{% if m.content == 'bomb' %}\
    {% set ns = namespace(a=['a'], b=['a']) %}\
    {% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}\
    {{ ns.a == ns.b }}{% elif m.content == 'big' %}\
    {% set ns = namespace(a=['a']) %}{% for i in range(60) %}{% set ns.a = ns.a + ns.a %}{% endfor %}{{ ns.a }}\
    {% endif %}{% endfor %}";

fn model() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/llama-gqa");
    for file in [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        fs::copy(fixture.join(file), dir.path().join(file)).unwrap();
    }
    fs::write(dir.path().join("chat_template.jinja"), TEMPLATE).unwrap();
    dir
}

struct Server {
    process: Child,
    /// Kept open: the server goes on writing to it.
    _output: BufReader<ChildStdout>,
    address: String,
}

impl Server {
    fn start(dir: &Path) -> Server {
        let mut process = Command::new(env!("CARGO_BIN_EXE_tokenmill"))
            .args(["serve", "--port", "0"])
            .arg(dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let address = line.trim().rsplit_once("http://").unwrap_or_else(|| panic!("{line:?}")).1.to_string();
        Server { process, _output: output, address }
    }

    /// The status of a chat request.
    fn chat(&self, content: &str) -> u16 {
        let body =
            format!(r#"{{"messages": [{{"role": "user", "content": "{content}"}}], "max_tokens": 1}}"#);
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(
            stream,
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
    }

    /// The processes it has started.
    fn helpers(&self) -> Vec<PathBuf> {
        let parent = format!("PPid:\t{}\n", self.process.id());
        let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        processes
            .filter(|p| fs::read_to_string(p.join("status")).is_ok_and(|s| s.contains(&parent)))
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_template_that_attacks_some_conversations_serves_the_others() {
    let dir = model();
    let mut server = Server::start(dir.path());
    assert_eq!(server.chat("hi"), 200);
    let before = server.peak_memory();
    for _ in 0..2 {
        for content in ["bomb", "big"] {
            assert_eq!(server.chat(content), 400, "{content}");
        }
        assert_eq!(server.chat("hi"), 200);
    }
    assert!(server.peak_memory() - before < 64 << 20);

    let helpers = server.helpers();
    assert!(!helpers.is_empty());
    server.process.kill().unwrap();
    server.process.wait().unwrap();
    for _ in 0..500 {
        if !helpers.iter().any(|process| process.exists()) {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("{helpers:?} are still there");
}

#[test]
fn a_tokenizer_that_would_kill_the_server_keeps_it_from_starting() {
    let dir = model();
    let path = dir.path().join("tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    json["normalizer"] = serde_json::json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="});
    fs::write(&path, json.to_string()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_tokenmill"))
        .args(["serve", "--port", "0"])
        .arg(dir.path())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("tokenizer.json") && error.contains("charsmap"), "{error}");
}
