//! The binary over the null backend, and a client of few words.

use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub(crate) const KEY: &str = "operator";

pub(crate) fn tokenmill(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tokenmill"));
    command.env("TOKENMILL_HOME", home).env_remove("TOKENMILL_ADMIN_KEY");
    command
}

/// `serve` with token ids in and out.
pub(crate) fn serve(home: &Path, flags: &[&str]) -> Command {
    let file = format!("{}tokenmill_null{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    // Cargo puts the library of a dev-dependency beside the test.
    let backend = std::env::current_exe().unwrap().parent().unwrap().join(file);
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/llama-gqa");
    let mut command = tokenmill(home);
    command.arg("serve").arg(model).args(["--port", "0", "--skip-tokenizer-init", "--backend"]).arg(backend);
    command.args(flags);
    command
}

pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
    /// Of the operator's listener.
    pub(crate) operator: String,
    _home: TempDir,
}

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub(crate) fn error(&self) -> (u16, String) {
        let error = &self.json()["error"];
        assert!(error["message"].is_string() && error["type"].is_string(), "{}", self.body);
        (self.status, error["code"].as_str().unwrap_or_default().to_owned())
    }
}

impl Server {
    pub(crate) fn start(flags: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let operator = ["--admin-port", "0", "--admin-key", KEY];
        let mut child =
            serve(home.path(), &[&operator, flags].concat()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut address = |from: &str| {
            let mut line = String::new();
            while !line.contains(from) {
                line.clear();
                assert!(lines.read_line(&mut line).unwrap() > 0, "the server did not start");
            }
            let rest = line.split("http://").nth(1).unwrap();
            rest.split('/').next().unwrap().trim().to_owned()
        };
        let (address, operator) = (address("is served on"), address("the operator's routes"));
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Self { child, address, operator, _home: home }
    }

    pub(crate) fn put(&self, name: &str, component: &[u8]) -> Reply {
        let (path, key) = (format!("/admin/policies/{name}"), format!("authorization: Bearer {KEY}"));
        send(&self.operator, "PUT", &path, &[&key], component)
    }

    pub(crate) fn operate(&self, method: &str, path: &str) -> Reply {
        send(&self.operator, method, path, &[&format!("authorization: Bearer {KEY}")], b"")
    }

    pub(crate) fn complete(&self, body: &Value) -> Reply {
        send(&self.address, "POST", "/v1/completions", &[], body.to_string().as_bytes())
    }

    /// The tokens of a greedy answer by a policy.
    pub(crate) fn tokens(&self, sampler: Option<&str>, count: u32) -> Vec<u64> {
        let mut body = json!({ "prompt": [5], "max_tokens": count, "temperature": 0, "ignore_eos": true });
        if let Some(sampler) = sampler {
            body["policy"] = json!({ "sampler": sampler });
        }
        let reply = self.complete(&body);
        assert_eq!(reply.status, 200, "{}", reply.body);
        ids(&reply.json()["choices"][0])
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < until, "the server did not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn ids(choice: &Value) -> Vec<u64> {
    choice["token_ids"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
}

/// One request on a connection of its own.
pub(crate) fn send(address: &str, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
    headers.iter().for_each(|header| head += &format!("{header}\r\n"));
    head += &format!("content-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).unwrap();
    // A server that refuses need not read everything.
    _ = stream.write_all(body);
    let mut text = Vec::new();
    _ = stream.read_to_end(&mut text);
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, body: body.to_owned() }
}

/// A streamed greedy answer, read as it comes.
pub(crate) struct Stream {
    lines: BufReader<TcpStream>,
}

impl Stream {
    pub(crate) fn begin(address: &str, sampler: &str, count: u32) -> Self {
        let body = json!({
            "prompt": [5], "max_tokens": count, "temperature": 0, "ignore_eos": true, "stream": true,
            "policy": { "sampler": sampler },
        });
        let body = body.to_string();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let length = body.len();
        write!(stream, "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}")
            .unwrap();
        Self { lines: BufReader::new(stream) }
    }

    /// The tokens of the next frame that has some, or the error; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<Result<Vec<u64>, String>> {
        loop {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "hung up");
            assert!(!line.starts_with("HTTP/1.1 ") || line.contains(" 200 "), "{line}");
            let Some(data) = line.strip_prefix("data: ") else { continue };
            if data.trim() == "[DONE]" {
                return None;
            }
            let frame: Value = serde_json::from_str(data).unwrap();
            if let Some(code) = frame["error"]["code"].as_str() {
                return Some(Err(code.to_owned()));
            }
            let tokens = ids(&frame["choices"][0]);
            if !tokens.is_empty() {
                return Some(Ok(tokens));
            }
        }
    }

    /// All tokens that are left.
    pub(crate) fn rest(mut self) -> Result<Vec<u64>, String> {
        let mut all = Vec::new();
        while let Some(tokens) = self.next() {
            all.extend(tokens?);
        }
        Ok(all)
    }
}

pub(crate) fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}
