//! HTTP/1.1 by hand, so that tests can also send what no client library would.

use serde_json::Value;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// One connection; requests go out one after the other.
pub struct Client {
    reader: BufReader<TcpStream>,
    pub headers: Vec<(String, String)>,
}

/// A response with its whole body.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| {
            panic!("status {} with a body that is no JSON ({e}): {}", self.status, self.text())
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body of a 200.
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()
    }

    /// `error` of a reply with `status`, checked for its four members.
    pub fn error(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        let error = self.json()["error"].clone();
        assert!(error["message"].is_string() && error["type"].is_string(), "{error}");
        assert!(error["param"].is_string() || error["param"].is_null(), "{error}");
        assert!(error["code"].is_string() || error["code"].is_null(), "{error}");
        error
    }
}

/// A streamed answer.
#[derive(Debug)]
pub struct Streamed {
    pub chunks: Vec<Value>,
    /// The stream ended with `data: [DONE]`.
    pub done: bool,
}

impl Streamed {
    /// Text of one choice, put together.
    pub fn text(&self, index: u64) -> String {
        self.choices(index)
            .map(|c| c["text"].as_str().or(c["delta"]["content"].as_str()).unwrap_or(""))
            .collect()
    }

    pub fn choices(&self, index: u64) -> impl Iterator<Item = &Value> {
        let all = self.chunks.iter().filter_map(|chunk| chunk["choices"].as_array()).flatten();
        all.filter(move |choice| choice["index"] == index)
    }

    pub fn finish_reason(&self, index: u64) -> Option<&str> {
        self.choices(index).filter_map(|choice| choice["finish_reason"].as_str()).last()
    }
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { reader: BufReader::new(stream), headers: Vec::new() }
    }

    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn get(&mut self, path: &str) -> Reply {
        self.request("GET", path, b"")
    }

    pub fn post(&mut self, path: &str, body: &Value) -> Reply {
        self.request("POST", path, body.to_string().as_bytes())
    }

    pub fn request(&mut self, method: &str, path: &str, body: &[u8]) -> Reply {
        self.send(method, path, body);
        self.reply().unwrap()
    }

    /// Sends and reads a streamed answer to its end.
    pub fn stream(&mut self, path: &str, body: &Value) -> Streamed {
        let reply = self.post(path, body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(reply.headers["content-type"].starts_with("text/event-stream"), "{:?}", reply.headers);
        parse_events(&reply.text())
    }

    pub fn send(&mut self, method: &str, path: &str, body: &[u8]) {
        let mut text = format!("{method} {path} HTTP/1.1\r\nhost: test\r\n");
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        if method == "POST" {
            text += &format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
        }
        text += "\r\n";
        self.raw(&[text.as_bytes(), body].concat());
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.reader.get_mut().write_all(bytes).unwrap();
    }

    /// Like `raw`, where the server may hang up meanwhile.
    pub fn try_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    pub fn set_read_timeout(&mut self, time: Duration) {
        self.reader.get_mut().set_read_timeout(Some(time)).unwrap();
    }

    /// The next response; an error when the server hangs up before its end.
    pub fn reply(&mut self) -> std::io::Result<Reply> {
        let (status, headers) = self.head()?;
        let mut body = Vec::new();
        if headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked") {
            while self.chunk(&mut body)? {}
        } else {
            let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
            body.resize(length, 0);
            self.reader.read_exact(&mut body)?;
        }
        Ok(Reply { status, headers, body })
    }

    /// Status line and headers.
    pub fn head(&mut self) -> std::io::Result<(u16, HashMap<String, String>)> {
        let line = self.line()?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| std::io::Error::other(format!("no status line: {line:?}")))?;
        let mut headers = HashMap::new();
        loop {
            let line = self.line()?;
            match line.split_once(':') {
                Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
                None => return Ok((status, headers)),
            };
        }
    }

    /// Appends one chunk of a chunked body; false at its end.
    pub fn chunk(&mut self, body: &mut Vec<u8>) -> std::io::Result<bool> {
        let line = self.line()?;
        let size = usize::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
        let at = body.len();
        body.resize(at + size, 0);
        self.reader.read_exact(&mut body[at..])?;
        self.line()?;
        Ok(size > 0)
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}

/// Frames of an event stream; every one must be `data: …` or a comment.
pub fn parse_events(text: &str) -> Streamed {
    let mut streamed = Streamed { chunks: Vec::new(), done: false };
    for frame in text.split_terminator("\n\n") {
        assert!(!streamed.done, "a frame after [DONE]: {frame:?}");
        if frame.starts_with(':') {
            continue;
        }
        let data = frame.strip_prefix("data: ").unwrap_or_else(|| panic!("no data frame: {frame:?}"));
        match data {
            "[DONE]" => streamed.done = true,
            _ => streamed.chunks.push(serde_json::from_str(data).unwrap()),
        }
    }
    streamed
}
