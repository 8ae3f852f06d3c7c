//! Bad input over HTTP: every refusal is a 4xx with OpenAI's body, and the next valid request is served.

#![allow(clippy::unwrap_used, clippy::panic)] // A test may panic, and so may its helpers.

use serde_json::{Map, Value, json};
use std::time::Duration;
use tokenmill_e2e::{Client, Running, Setup};
use tokenmill_http::Limits;

const TEXT: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

/// The server still answers, and nothing is left in the KV pool.
fn still_well(server: &Running) {
    let body = json!({"prompt": "hello", "max_tokens": 2});
    Client::new(server.address).post(TEXT, &body).ok();
    server.settle();
}

fn valid(path: &str) -> Map<String, Value> {
    let body = match path {
        CHAT => json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}),
        _ => json!({"prompt": "hello", "max_tokens": 2}),
    };
    body.as_object().unwrap().clone()
}

/// The values of the test below that a field really takes.
fn in_range(field: &str, value: &str) -> bool {
    let takes: &[&str] = match field {
        "temperature" | "top_p" | "min_p" => &["0", "0.1"],
        "presence_penalty" | "frequency_penalty" => &["-1", "0", "0.1"],
        "repetition_penalty" => &["0.1"],
        "min_tokens" | "logprobs" | "top_logprobs" => &["0"],
        "seed" => &["-1", "0", "2147483648"],
        "priority" | "top_k" => &["-1", "0"],
        _ => &[],
    };
    takes.contains(&value)
}

/// Every numeric field with what is out of range or of another type. `null` and the listed exceptions are the
/// documented default.
#[test]
fn numbers_out_of_range_are_refused_by_name() {
    let server = Setup::default().start();
    let mut client = Client::new(server.address);
    let floats =
        ["temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"];
    let ints =
        ["max_tokens", "max_completion_tokens", "n", "best_of", "min_tokens", "logprobs", "top_logprobs"];
    let free = ["seed", "priority", "top_k"];
    let values = [
        "-1",
        "0",
        "2147483648",
        "9223372036854775808",
        "1e308",
        "\"NaN\"",
        "0.1",
        "\"1\"",
        "[]",
        "{}",
        "true",
    ];
    for (path, only) in [(TEXT, "top_logprobs"), (CHAT, "best_of")] {
        for field in floats.iter().chain(&ints).chain(&free).filter(|field| **field != only) {
            if path == CHAT && *field == "logprobs" {
                continue;
            }
            for value in values {
                let mut body = valid(path);
                body.remove(*field);
                let mut body = Value::Object(body).to_string();
                body.insert_str(1, &format!("\"{field}\": {value}, "));
                let reply = client.request("POST", path, body.as_bytes());
                if reply.status == 200 {
                    assert!(in_range(field, value), "{path} {field}: {value} was served");
                } else {
                    assert_eq!(reply.error(400)["param"], *field, "{value}: {}", reply.text());
                }
            }
            let mut body = valid(path);
            body.insert((*field).to_owned(), Value::Null);
            client.post(path, &Value::Object(body)).ok();
        }
    }
    still_well(&server);
}

#[test]
fn known_fields_are_honoured_or_refused_by_name() {
    let server = Setup::default().start();
    let mut client = Client::new(server.address);
    let many: Map<String, Value> = (0..1025).map(|id| (id.to_string(), json!(1))).collect();
    let cases = [
        (TEXT, "suffix", json!("x")),
        (TEXT, "policy", json!({"smapler": "x"})),
        (TEXT, "policy", json!({"args": [1]})),
        (TEXT, "structured_outputs", json!({"regex": 1})),
        (TEXT, "stop", json!([""])),
        (TEXT, "stop", json!(vec!["x"; 10_000])),
        (TEXT, "stop", json!("x".repeat(1 << 20))),
        (TEXT, "stop", json!(5)),
        (TEXT, "stop_token_ids", json!([320])),
        (TEXT, "stop_token_ids", json!([-1])),
        (TEXT, "logit_bias", json!(many)),
        (TEXT, "logit_bias", json!({"320": 1})),
        (TEXT, "logit_bias", json!({"x": 1})),
        (TEXT, "logit_bias", json!({"5": 101})),
        (TEXT, "n", json!(1_000_000_000)),
        (TEXT, "stream", json!("yes")),
        (TEXT, "stream_options", json!({"include_usage": true})),
        (TEXT, "use_beam_search", json!(true)),
        (TEXT, "prompt_logprobs", json!(1)),
        (TEXT, "response_format", json!({"type": "json_object"})),
        (TEXT, "cache_salt", json!("")),
        (CHAT, "tools", json!([{"type": "function"}])),
        (CHAT, "tool_choice", json!("auto")),
        (CHAT, "chat_template", json!("{{ 1 }}")),
        (CHAT, "chat_template_kwargs", json!({"x": 1})),
        (CHAT, "top_logprobs", json!(2)),
        (CHAT, "messages", json!([])),
        (CHAT, "messages", json!("hi")),
        (CHAT, "messages", json!([1])),
    ];
    for (path, field, value) in cases {
        let mut body = valid(path);
        body.insert(field.to_owned(), value);
        let error = client.post(path, &Value::Object(body)).error(400);
        assert_eq!(error["param"], field, "{error}");
    }
    let mut body = valid(TEXT);
    body.insert("policy".to_owned(), json!({"sampler": "x"}));
    let error = client.post(TEXT, &Value::Object(body)).error(400);
    assert_eq!(error["param"], "policy.sampler", "{error}");
    let off = json!({"tools": null, "tool_choice": "none", "response_format": {"type": "text"}, "user": "u", "x": [1]});
    let mut body = valid(CHAT);
    body.extend(off.as_object().unwrap().clone());
    client.post(CHAT, &Value::Object(body)).ok();
    still_well(&server);
}

#[test]
fn prompts_without_meaning_are_refused() {
    let server = Setup::default().start();
    let mut client = Client::new(server.address);
    let prompts = [
        json!(""),
        json!([]),
        json!([[]]),
        json!([1]),
        json!([-1]),
        json!([320]),
        json!([4_294_967_296u64]),
        json!([[5], [320]]),
        json!(["hello", ""]),
        json!([5, "x"]),
        json!({"a": 1}),
        json!(5),
        json!(null),
    ];
    for prompt in prompts {
        let error = client.post(TEXT, &json!({"prompt": prompt})).error(400);
        assert_eq!(error["param"], "prompt", "{prompt}: {error}");
    }
    let long = vec![5; 200];
    let error = client.post(TEXT, &json!({"prompt": long})).error(400);
    assert_eq!((&error["param"], &error["code"]), (&json!("prompt"), &json!("context_length_exceeded")));
    let error = client.post(TEXT, &json!({"prompt": vec![5; 100], "max_tokens": 100})).error(400);
    assert_eq!((&error["param"], &error["code"]), (&json!("max_tokens"), &json!("context_length_exceeded")));
    let lone = client.request("POST", TEXT, br#"{"prompt": "\ud800"}"#);
    assert_eq!(lone.error(400)["param"], "prompt");
    still_well(&server);
}

#[test]
fn images_are_refused_where_they_stand() {
    let server = Setup::default().start();
    let mut client = Client::new(server.address);
    for url in ["http://169.254.169.254/", "file:///etc/passwd", "data:image/png;base64,AAAA"] {
        let part = json!({"type": "image_url", "image_url": {"url": url}});
        let content = json!([{"type": "text", "text": "see"}, part]);
        let error =
            client.post(CHAT, &json!({"messages": [{"role": "user", "content": content}]})).error(400);
        assert_eq!(error["param"], "messages[0].content[1].type");
        assert!(!error.to_string().contains(url));
    }
    still_well(&server);
}

#[test]
fn bodies_that_are_no_json_objects_are_refused() {
    let server = Setup::default().start();
    let mut client = Client::new(server.address);
    let deep = format!(r#"{{"prompt": {}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let bodies: [&[u8]; 9] = [
        b"",
        b"{",
        b"[]",
        b"{\"prompt\": NaN}",
        b"\xef\xbb\xbf{}",
        b"{} {}",
        b"{\"prompt\": \"\xff\"}",
        b"{\"prompt\": \"a\", \"prompt\": \"b\"}",
        deep.as_bytes(),
    ];
    for body in bodies {
        for path in [TEXT, CHAT, "/tokenize", "/detokenize"] {
            client.request("POST", path, body).error(400);
        }
    }
    still_well(&server);
}

#[test]
fn what_is_too_large_is_refused_before_it_is_held() {
    let server = Setup::default().start();
    let mut client = Client::new(server.address);
    client.raw(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1073741824\r\n\r\n");
    client.reply().unwrap().error(413);

    let mut client = Client::new(server.address);
    client.raw(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    let chunk = [&b"100000\r\n"[..], &[b' '; 1 << 20], b"\r\n"].concat();
    // The server may hang up while we still send.
    for _ in 0..10 {
        if client.try_raw(&chunk).is_err() {
            break;
        }
    }
    if let Ok(reply) = client.reply() {
        reply.error(413);
    }
    for (lines, size) in [(65, 10), (1, 33 << 10)] {
        let mut client = Client::new(server.address);
        let header = format!("x-h: {}\r\n", "a".repeat(size));
        client.raw(format!("GET /health HTTP/1.1\r\n{}\r\n", header.repeat(lines)).as_bytes());
        assert_eq!(client.reply().unwrap().status, 431);
    }
    still_well(&server);
}

/// hyper answers these itself, without a body, and closes.
#[test]
fn bad_framing_ends_the_connection() {
    let server = Setup::default().start();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\n";
    let bad = [
        "content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        "content-length: -1\r\n\r\n",
        "content-length: 0x2\r\n\r\n{}",
        "x: a\0b\r\ncontent-length: 2\r\n\r\n{}",
        "x y: a\r\ncontent-length: 2\r\n\r\n{}",
        "transfer-encoding: gzip\r\n\r\n",
        "transfer-encoding: chunked, gzip\r\n\r\n",
    ];
    for rest in bad {
        let mut client = Client::new(server.address);
        client.raw(format!("{head}{rest}").as_bytes());
        assert_eq!(client.reply().unwrap().status, 400, "{rest:?}");
        assert!(client.reply().is_err(), "{rest:?} left the connection open");
    }
    let chunked = "transfer-encoding: chunked\r\n\r\n";
    for rest in ["ZZ\r\n", "-1\r\n", "fffffffffffffffff\r\n", "2\r\n{}X"] {
        let mut client = Client::new(server.address);
        client.raw(format!("{head}{chunked}{rest}").as_bytes());
        client.reply().unwrap().error(400);
        assert!(client.reply().is_err(), "{rest:?} left the connection open");
    }
    still_well(&server);
}

/// RFC 9112 section 6.3: the chunks count, and no second request is read from that connection.
#[test]
fn two_framings_cannot_smuggle_a_request() {
    let server = Setup::default().start();
    let (length, chunked) = ("content-length: 4\r\n", "transfer-encoding: chunked\r\n");
    for framing in [[length, chunked].concat(), [chunked, length].concat()] {
        let mut client = Client::new(server.address);
        let smuggled = "GET /version HTTP/1.1\r\nhost: x\r\n\r\n";
        let head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\n";
        client.raw(format!("{head}{framing}\r\n0\r\n\r\n{smuggled}").as_bytes());
        client.reply().unwrap().error(400);
        assert!(client.reply().is_err(), "a second answer after {framing:?}");
    }
    still_well(&server);
}

#[test]
fn a_body_in_tiny_chunks_is_read() {
    let server = Setup::default().start();
    let mut client = Client::new(server.address);
    client.raw(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    let blanks = b"6\r\n      \r\n".repeat(10_000);
    for _ in 0..20 {
        client.raw(&blanks);
    }
    let body = r#"{"prompt": "hello", "max_tokens": 1}"#;
    client.raw(format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).as_bytes());
    client.reply().unwrap().ok();
    still_well(&server);
}

#[test]
fn a_body_that_trickles_is_cut_off_and_one_that_flows_is_not() {
    let limits = Limits { body_grace: Duration::from_millis(300), ..Limits::default() };
    let server = Setup { limits, ..Setup::default() }.start();
    let head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 8192\r\n\r\n";
    let mut slow = Client::new(server.address);
    slow.raw(head);
    // The server hangs up sooner or later: at this rate the body would take minutes.
    while slow.try_raw(b" ").is_ok() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let page = Client::new(server.address).get("/metrics").text();
    assert!(page.contains("status=\"4xx\"} 1\n"), "{page}");
    let mut bursts = Client::new(server.address);
    bursts.raw(head);
    let body = format!("{:8192}", r#"{"prompt": "hello", "max_tokens": 1}"#);
    bursts.raw(&body.as_bytes()[..8000]);
    // Longer than the grace, but 8000 bytes are worth 8 s.
    std::thread::sleep(Duration::from_millis(600));
    bursts.raw(&body.as_bytes()[8000..]);
    bursts.reply().unwrap().ok();
    still_well(&server);
}

#[test]
fn slow_senders_are_cut_off() {
    let limits = Limits {
        header_time: Duration::from_millis(200),
        body_time: Duration::from_millis(200),
        idle_time: Duration::from_millis(600),
        ..Limits::default()
    };
    let server = Setup { limits, ..Setup::default() }.start();
    let mut head = Client::new(server.address);
    head.raw(b"GET /health HTT");
    assert!(head.reply().is_err(), "an unfinished head was answered");
    let mut body = Client::new(server.address);
    body.raw(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{");
    body.reply().unwrap().error(408);
    let mut idle = Client::new(server.address);
    assert_eq!(idle.get("/health").status, 200);
    assert!(idle.reply().is_err(), "an idle connection stayed open");
    still_well(&server);
}
