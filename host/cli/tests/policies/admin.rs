//! The operator's routes.

use crate::guests::{always, sampler};
use crate::server::{KEY, Server, Stream, send};
use serde_json::json;
use std::net::TcpStream;

#[test]
fn policies_are_put_listed_replaced_and_deleted() {
    let server = Server::start(&[]);
    let put = server.put("mine?kind=sampler&enforcing=true", &always(7));
    assert_eq!(put.status, 200, "{}", put.body);
    let status = put.json();
    assert_eq!(
        (&status["name"], &status["kind"], &status["state"]),
        (&json!("mine"), &json!("sampler"), &json!("active"))
    );
    assert_eq!((&status["enforcing"], &status["contract"]), (&json!(true), &json!("0.1.0")));
    assert_eq!(server.operate("GET", "/admin/policies/mine").json()["id"], status["id"]);
    assert_eq!(server.tokens(Some("mine"), 4), [7; 4]);

    let second = server.put("mine", &always(9)).json();
    assert_ne!(second["id"], status["id"]);
    let list = server.operate("GET", "/admin/policies").json();
    assert_eq!(list["data"].as_array().unwrap().len(), 1);
    assert_eq!(list["data"][0]["id"], second["id"]);
    assert_eq!(server.tokens(Some("mine"), 4), [9; 4]);

    assert_eq!(server.operate("DELETE", "/admin/policies/mine").status, 200);
    assert_eq!(server.operate("GET", "/admin/policies/mine").error(), (404, "policy_not_found".into()));
    assert_eq!(server.operate("DELETE", "/admin/policies/mine").error(), (404, "policy_not_found".into()));
    let reply = server.complete(&json!({ "prompt": [5], "policy": { "sampler": "mine" } }));
    assert_eq!(reply.status, 400, "{}", reply.body);
}

#[test]
fn what_cannot_be_used_changes_nothing() {
    let server = Server::start(&[]);
    let good = server.put("mine", &always(7)).json();
    let traps = sampler("unreachable");
    let large = vec![0; (8 << 20) + 1];
    let truncated = &always(9)[..300];
    for (name, component, expected) in [
        ("mine", &b""[..], (400, "policy_refused")),
        ("mine", b"#!/bin/sh", (400, "policy_refused")),
        ("mine", b"\0asm\x01\0\0\0", (400, "policy_refused")),
        ("mine", truncated, (400, "policy_refused")),
        ("mine", &traps, (400, "policy_refused")),
        ("mine?kind=scheduler", &always(9), (400, "policy_refused")),
        ("mine?kind=scheduler&enforcing=true", &always(9), (400, "policy_refused")),
        ("mine?kind=tokenizer", &always(9), (400, "")),
        ("Mine", &always(9), (400, "policy_refused")),
        ("grammar", &always(9), (409, "policy_conflict")),
        ("mine", &large, (413, "")),
    ] {
        let reply = server.put(name, component);
        assert_eq!(reply.error(), (expected.0, expected.1.to_owned()), "{name}: {}", reply.body);
    }
    assert_eq!(server.operate("GET", "/admin/policies/mine").json()["id"], good["id"]);
    assert_eq!(server.tokens(Some("mine"), 4), [7; 4]);
}

/// H12 of the security notes.
#[test]
fn nothing_opens_without_the_key_and_neither_listener_has_the_other_s_routes() {
    let server = Server::start(&[]);
    server.put("mine", &always(7));
    for path in ["/admin/policies", "/admin/policies/mine", "/admin", "/", "/health", "/metrics"] {
        for method in ["GET", "PUT", "POST", "DELETE", "OPTIONS", "PATCH"] {
            for header in [
                "x: y",
                "authorization: Bearer wrong",
                "authorization: Bearer ",
                "authorization: Basic operator",
            ] {
                let reply = send(&server.operator, method, path, &[header], b"");
                assert_eq!(reply.error(), (401, "invalid_api_key".into()), "{method} {path} {header}");
            }
        }
    }
    let key = format!("authorization: Bearer {KEY}");
    for path in [
        "/",
        "/admin",
        "/admin/policies/",
        "/admin/policies/a/b",
        "/v1/models",
        "/health",
        "/metrics",
        "/livez",
    ] {
        assert_eq!(send(&server.operator, "GET", path, &[&key], b"").status, 404, "{path}");
    }
    for path in ["/admin/policies", "/admin/policies/mine"] {
        for method in ["GET", "PUT", "DELETE"] {
            assert_eq!(send(&server.address, method, path, &[&key], b"").status, 404, "{method} {path}");
        }
    }
    assert_eq!(send(&server.operator, "POST", "/admin/policies/mine", &[&key], b"").status, 405);
    assert_eq!(server.tokens(Some("mine"), 2), [7; 2]);
}

#[test]
fn the_operator_s_port_closes_when_the_server_drains() {
    let mut server = Server::start(&["--backend-option", "step_us=10000"]);
    server.put("mine", &always(7));
    let mut stream = Stream::begin(&server.address, "mine", 60);
    stream.next().unwrap().unwrap();
    server.signal("TERM");
    while TcpStream::connect(&server.operator).is_ok() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(stream.rest().unwrap().iter().all(|&token| token == 7));
    assert_eq!(server.exit_code(), Some(0));
}
