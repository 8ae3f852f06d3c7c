//! From the first connection to the last: loading, a device that hangs or fails, the drain.

#![allow(clippy::unwrap_used, clippy::panic)] // A test may panic, and so may its helpers.

use serde_json::json;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::Duration;
use tokenmill_e2e::{Client, Running, Setup, Streamed, parse_events};
use tokenmill_http::{Limits, loading};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

const TEXT: &str = "/v1/completions";

/// Steps that take 5 ms, and no end tokens: a request lasts as long as a test needs it to.
fn slow() -> Setup {
    Setup {
        options: "step_us=5000\nscript=275,279,306".to_owned(),
        ignore_end_tokens: true,
        ..Setup::default()
    }
}

/// Waits until `/health` answers `status`, and returns its last answer.
fn health_turns(server: &Running, status: u16) -> tokenmill_e2e::Reply {
    for _ in 0..2000 {
        let reply = Client::new(server.address).get("/health");
        if reply.status == status {
            return reply;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("/health never turned {status}");
}

#[test]
fn a_server_that_loads_says_so() {
    let (loaded, wait) = oneshot::channel::<()>();
    let (bound, address) = mpsc::channel();
    let early = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            bound.send(listener.local_addr().unwrap()).unwrap();
            loading(&listener, &Limits::default(), async { _ = wait.await }).await;
        });
    });
    let address = address.recv().unwrap();
    for (method, path) in [("GET", "/health"), ("GET", "/v1/models"), ("POST", TEXT), ("GET", "/nowhere")] {
        let reply = Client::new(address).request(method, path, b"{\"prompt\": \"hello\"}");
        assert_eq!(reply.error(503)["code"], "loading", "{path}");
        assert!(reply.headers["retry-after"].parse::<u32>().unwrap() >= 1);
    }
    let mut client = Client::new(address);
    assert_eq!(client.get("/livez").status, 200);
    assert!(client.reply().is_err(), "the connection outlived its one request");
    drop(loaded);
    early.join().unwrap();
}

#[test]
fn a_device_that_hangs_shows_in_health() {
    let limits = Limits { hang_time: Duration::from_millis(100), ..Limits::default() };
    // One step of 2 s: until its end there is no telling it from a hang.
    let server = Setup { limits, options: "step_us=2000000".to_owned(), ..slow() }.start();
    health_turns(&server, 200);
    let mut client = Client::new(server.address);
    client.send("POST", TEXT, json!({"prompt": "hello", "max_tokens": 1}).to_string().as_bytes());
    let reply = health_turns(&server, 503);
    assert_eq!(reply.error(503)["code"], "hung");
    assert!(reply.headers.contains_key("retry-after"));
    let mut other = Client::new(server.address);
    assert_eq!(other.get("/livez").status, 200);
    assert!(other.get("/metrics").text().contains("tokenmill_engine_hung{model_name=\"llama-gqa\"} 1\n"));
    client.reply().unwrap().ok();
    health_turns(&server, 200);
}

#[test]
fn a_lost_device_shows_in_health_and_its_words_stay_inside() {
    let server = Setup { options: "lost_at=1".to_owned(), ..Setup::default() }.start();
    let mut client = Client::new(server.address);
    for stream in [false, true] {
        let reply = client.post(TEXT, &json!({"prompt": "hello", "stream": stream}));
        assert!(matches!(reply.status, 200 | 503), "{}", reply.text());
        let text = reply.text();
        assert!(text.contains("\"error\"") && !text.contains('/') && !text.contains("0x"), "{text}");
    }
    health_turns(&server, 503);
}

/// A client whose connection the server has taken.
fn connected(server: &Running) -> Client {
    let mut client = Client::new(server.address);
    assert_eq!(client.get("/livez").status, 200);
    client
}

/// Waits until the port is closed.
fn refuses_connections(server: &Running) {
    for _ in 0..1000 {
        match TcpStream::connect(server.address) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return,
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    panic!("the port stayed open");
}

fn rest_of_stream(client: &mut Client) -> Streamed {
    let mut text = Vec::new();
    while client.chunk(&mut text).unwrap() {}
    parse_events(&String::from_utf8(text).unwrap())
}

#[test]
fn a_drain_lets_streams_finish_and_refuses_the_rest() {
    let mut server = slow().start();
    let mut streaming: Vec<Client> = (0..16).map(|_| connected(&server)).collect();
    let mut whole = connected(&server);
    let mut body = json!({"prompt": "hello", "max_tokens": 100});
    whole.send("POST", TEXT, body.to_string().as_bytes());
    body["stream"] = json!(true);
    for client in &mut streaming {
        client.send("POST", TEXT, body.to_string().as_bytes());
        assert_eq!(client.head().unwrap().0, 200);
    }
    let (mut health, mut live, mut late) = (connected(&server), connected(&server), connected(&server));
    while server.engine.stats().running + server.engine.stats().waiting < 17 {
        std::thread::sleep(Duration::from_millis(1));
    }
    server.begin_shutdown();
    refuses_connections(&server);
    assert_eq!(health.get("/health").error(503)["code"], "draining");
    assert_eq!(live.get("/livez").status, 200);
    let reply = late.post(TEXT, &json!({"prompt": "hello"}));
    assert_eq!(reply.error(503)["code"], "draining");
    assert!(reply.headers.contains_key("retry-after"));
    assert_eq!(reply.headers["connection"], "close");
    for client in &mut streaming {
        let streamed = rest_of_stream(client);
        assert!(streamed.done);
        assert_eq!(streamed.finish_reason(0), Some("length"));
    }
    assert_eq!(whole.reply().unwrap().ok()["choices"][0]["finish_reason"], "length");
    server.wait();
}

#[test]
fn a_drain_that_takes_too_long_ends_streams_with_an_error_event() {
    let limits = Limits { drain_time: Duration::from_millis(100), ..Limits::default() };
    let mut server = Setup { limits, options: "step_us=50000".to_owned(), ..slow() }.start();
    let mut streaming = Client::new(server.address);
    let body = json!({"prompt": "hello", "max_tokens": 120, "stream": true});
    streaming.send("POST", TEXT, body.to_string().as_bytes());
    streaming.head().unwrap();
    server.begin_shutdown();
    let streamed = rest_of_stream(&mut streaming);
    assert!(streamed.done);
    assert_eq!(streamed.chunks.last().unwrap()["error"]["code"], "draining");
    server.wait();
}
