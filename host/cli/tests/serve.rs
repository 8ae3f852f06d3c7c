//! The binary from its first connection to its last signal, over the null backend.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

struct Server {
    child: Child,
    address: String,
}

impl Server {
    /// Token ids in and out; `option` is one of the null backend.
    fn start(option: &str) -> Self {
        let file = format!("{}tokenmill_null{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
        // Cargo puts the library of a dev-dependency beside the test.
        let backend = std::env::current_exe().unwrap().parent().unwrap().join(file);
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/llama-gqa");
        let mut child = Command::new(env!("CARGO_BIN_EXE_tokenmill"))
            .arg("serve")
            .arg(model)
            .args(["--port", "0", "--skip-tokenizer-init", "--backend-option", option, "--backend"])
            .arg(backend)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let address = line.trim().rsplit('/').next().unwrap().to_owned();
        // Its next line must find a reader.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Self { child, address }
    }

    /// A stream of `tokens` tokens that has begun.
    fn stream(&self, tokens: u32) -> BufReader<TcpStream> {
        let body =
            format!(r#"{{"prompt": [5], "max_tokens": {tokens}, "stream": true, "ignore_eos": true}}"#);
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let length = body.len();
        write!(stream, "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}")
            .unwrap();
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        while !line.starts_with("data: ") {
            line.clear();
            assert!(stream.read_line(&mut line).unwrap() > 0, "hung up");
        }
        stream
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    fn wait_until_closed(&self) {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            match TcpStream::connect(&self.address) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => return,
                _ => assert!(Instant::now() < until, "the port stayed open"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Well below the 30 s that a drain may take.
    fn exit(&mut self) -> ExitStatus {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "the server did not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

#[test]
fn a_signal_lets_streams_finish_and_exits_with_0() {
    for name in ["TERM", "INT"] {
        let mut server = Server::start("step_us=10000");
        let mut stream = server.stream(60);
        server.signal(name);
        server.wait_until_closed();
        let mut text = String::new();
        while !text.ends_with("data: [DONE]\n") {
            assert!(stream.read_line(&mut text).unwrap() > 0, "cut: {text}");
        }
        assert!(text.contains(r#""finish_reason":"length""#), "{text}");
        assert_eq!(server.exit().code(), Some(0), "{name}");
    }
}

#[test]
fn a_second_signal_exits_at_once() {
    let mut server = Server::start("step_us=1000000");
    let mut stream = server.stream(100);
    server.signal("TERM");
    server.wait_until_closed();
    server.signal("TERM");
    assert_eq!(server.exit().code(), Some(130));
    let mut text = String::new();
    _ = stream.read_to_string(&mut text);
    assert!(!text.contains("[DONE]"), "{text}");
}

/// So that a supervisor starts it again.
#[test]
fn a_lost_device_is_a_failure() {
    let mut server = Server::start("lost_at=3");
    let mut stream = server.stream(60);
    let mut text = String::new();
    while !text.ends_with("data: [DONE]\n") {
        assert!(stream.read_line(&mut text).unwrap() > 0, "cut: {text}");
    }
    assert!(text.contains(r#""code":"backend_lost""#), "{text}");
    assert_eq!(server.exit().code(), Some(1));
}
