//! A hub of our own: the few routes that fetching a model takes, over plain HTTP/1.1, one answer a connection.
use std::{
    collections::{HashMap, HashSet},
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

#[derive(Default)]
pub(crate) struct Hub {
    /// Files of the one model it has.
    pub(crate) files: HashMap<String, Vec<u8>>,
    pub(crate) model: String,
    /// Who asks without this token is told 401; the second part: only when asking for a file.
    pub(crate) token: Option<(String, bool)>,
    /// Files whose first download breaks off half way.
    pub(crate) breaks: Mutex<HashSet<String>>,
    /// Every request: path and range.
    pub(crate) seen: Mutex<Vec<(String, String)>>,
}

/// Starts serving; returns the address to use as HF_ENDPOINT.
pub(crate) fn start(hub: &Arc<Hub>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let hub = Arc::clone(hub);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let hub = Arc::clone(&hub);
            // A client that hangs up in the middle of an answer is part of some tests.
            thread::spawn(move || hub.answer(&stream).ok());
        }
    });
    address
}

impl Hub {
    fn answer(&self, mut stream: &TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.take(1 << 16)).lines();
        let first = lines.next().unwrap()?;
        let path = first.split(' ').nth(1).unwrap().to_string();
        let mut headers = HashMap::new();
        for line in lines {
            let line = line?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_string());
        }
        let range = headers.get("range").cloned().unwrap_or_default();
        self.seen.lock().unwrap().push((path.clone(), range.clone()));
        let file = path.strip_prefix(&format!("/{}/resolve/main/", self.model));
        if let Some((token, files_only)) = &self.token
            && (file.is_some() || !files_only)
            && headers.get("authorization") != Some(&format!("Bearer {token}"))
        {
            return write!(
                stream,
                "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
        }
        if path == format!("/api/models/{}/revision/main", self.model) {
            let names: Vec<_> = self.files.keys().map(|n| serde_json::json!({"rfilename": n})).collect();
            let body = serde_json::json!({"sha": "c0ffee", "siblings": names}).to_string();
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            return stream.write_all((head + &body).as_bytes());
        }
        match file.and_then(|name| Some((name, self.files.get(name)?))) {
            Some((name, bytes)) => self.file(stream, name, bytes, &range),
            None => {
                write!(stream, "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            }
        }
    }

    fn file(&self, mut stream: &TcpStream, name: &str, bytes: &[u8], range: &str) -> std::io::Result<()> {
        let (start, end) = range.strip_prefix("bytes=").and_then(|r| r.split_once('-')).unwrap();
        let start: usize = start.parse().unwrap();
        let end = end.parse().map_or(bytes.len(), |last: usize| (last + 1).min(bytes.len()));
        let body = &bytes[start..end];
        write!(
            stream,
            "HTTP/1.1 206 Partial Content\r\ncontent-length: {}\r\ncontent-range: bytes {start}-{}/{}\r\n\
             etag: \"etag-of-{name}\"\r\nx-repo-commit: c0ffee\r\nconnection: close\r\n\r\n",
            body.len(),
            end - 1,
            bytes.len()
        )?;
        let whole = body.len() < 2 || !self.breaks.lock().unwrap().remove(name);
        stream.write_all(if whole { body } else { &body[..body.len() / 2] })
    }
}
