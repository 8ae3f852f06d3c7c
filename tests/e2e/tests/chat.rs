//! `/v1/chat/completions` over the null backend: frames, log-probabilities, stop strings.

#![allow(clippy::unwrap_used, clippy::panic)] // A test may panic, and so may its helpers.

use serde_json::{Value, json};
use tokenmill_e2e::{Client, Setup};

const PATH: &str = "/v1/chat/completions";

/// The fixture's tokens "hel", "lo" and " hello", over and over.
fn scripted() -> Setup {
    Setup { options: "script=275,279,306".to_owned(), ..Setup::default() }
}

fn ask(extra: Value) -> Value {
    let mut body =
        json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9, "temperature": 0});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

#[test]
fn frames_come_in_openai_s_order() {
    let server = scripted().start();
    let mut client = Client::new(server.address);
    let options = json!({"include_usage": true});
    let streamed = client.stream(PATH, &ask(json!({"stream": true, "stream_options": options})));
    assert!(streamed.done);
    assert_eq!(streamed.chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let [.., finish, usage] = streamed.chunks.as_slice() else { panic!("{streamed:?}") };
    assert_eq!(finish["choices"][0]["delta"], json!({}));
    assert_eq!(finish["choices"][0]["finish_reason"], "length");
    assert_eq!((&usage["choices"], &usage["usage"]["completion_tokens"]), (&json!([]), &json!(9)));
    for chunk in &streamed.chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!((&chunk["id"], &chunk["model"]), (&streamed.chunks[0]["id"], &json!("llama-gqa")));
    }
    let whole = client.post(PATH, &ask(json!({}))).ok();
    assert_eq!(whole["choices"][0]["message"]["content"], streamed.text(0));
    assert_eq!(whole["choices"][0]["message"]["role"], "assistant");
    for count in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(whole["usage"][count], usage["usage"][count], "{count}");
    }
    server.settle();
}

#[test]
fn continuous_usage_is_in_every_frame() {
    let server = scripted().start();
    let options = json!({"continuous_usage_stats": true});
    let streamed =
        Client::new(server.address).stream(PATH, &ask(json!({"stream": true, "stream_options": options})));
    let counts: Vec<u64> =
        streamed.chunks.iter().map(|chunk| chunk["usage"]["completion_tokens"].as_u64().unwrap()).collect();
    assert!(counts.is_sorted() && counts.first() == Some(&0) && counts.last() == Some(&9), "{counts:?}");
}

#[test]
fn logprobs_have_chat_s_shape() {
    let server = scripted().start();
    let mut client = Client::new(server.address);
    let whole = client.post(PATH, &ask(json!({"logprobs": true, "top_logprobs": 3}))).ok();
    let content = whole["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(content.len(), 9);
    for token in content {
        let text: Vec<u8> =
            token["bytes"].as_array().unwrap().iter().map(|byte| byte.as_u64().unwrap() as u8).collect();
        assert_eq!(token["token"], String::from_utf8_lossy(&text).as_ref());
        assert_eq!(token["top_logprobs"].as_array().unwrap().len(), 3);
        assert_eq!(token["top_logprobs"][0]["logprob"], token["logprob"]);
    }
}

/// A stop string ends the text before it, or after it where that was asked for; how tokens cut the text
/// does not matter.
#[test]
fn stop_strings_end_the_text() {
    let server = scripted().start();
    let mut client = Client::new(server.address);
    let text = client.post(PATH, &ask(json!({}))).ok()["choices"][0]["message"]["content"].clone();
    let text = text.as_str().unwrap().to_owned();
    for stop in ["lo", "llo", "o h", "hello hello"] {
        let Some(at) = text.find(stop) else { continue };
        for include in [false, true] {
            let extra = json!({"stop": [stop, "never"], "include_stop_str_in_output": include});
            let whole = client.post(PATH, &ask(extra.clone())).ok();
            let choice = &whole["choices"][0];
            let expected = &text[..at + if include { stop.len() } else { 0 }];
            assert_eq!(choice["message"]["content"], expected, "{stop:?}");
            assert_eq!((&choice["finish_reason"], &choice["stop_reason"]), (&json!("stop"), &json!(stop)));
            let mut body = ask(extra);
            body["stream"] = json!(true);
            let streamed = client.stream(PATH, &body);
            assert_eq!((streamed.text(0).as_str(), streamed.finish_reason(0)), (expected, Some("stop")));
        }
    }
    server.settle();
}

#[test]
fn a_stop_token_ends_a_choice_and_is_named() {
    let server = scripted().start();
    let mut client = Client::new(server.address);
    let extra = json!({"stop_token_ids": [306], "return_token_ids": true, "ignore_eos": true});
    let choice = client.post(PATH, &ask(extra)).ok()["choices"][0].clone();
    assert_eq!((&choice["finish_reason"], &choice["stop_reason"]), (&json!("stop"), &json!(306)));
    assert_eq!(choice["token_ids"].as_array().unwrap().last(), Some(&json!(306)));
}

#[test]
fn without_a_tokenizer_ids_go_in_and_out() {
    let server = Setup { tokenizer: false, ..scripted() }.start();
    let mut client = Client::new(server.address);
    let body = json!({"prompt": [5, 6, 7], "max_tokens": 4, "temperature": 0, "ignore_eos": true});
    let choice = client.post("/v1/completions", &body).ok()["choices"][0].clone();
    assert_eq!((&choice["text"], choice["token_ids"].as_array().unwrap().len()), (&json!(""), 4));
    assert_eq!(choice["prompt_token_ids"], json!([5, 6, 7]));
    assert_eq!(client.post("/v1/completions", &json!({"prompt": "text"})).error(400)["param"], "prompt");
    assert_eq!(client.post(PATH, &ask(json!({}))).error(400)["param"], "messages");
}
