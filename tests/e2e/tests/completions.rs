//! `/v1/completions` over the null backend: shapes, echo, log-probabilities, batches.

#![allow(clippy::unwrap_used, clippy::panic)] // A test may panic, and so may its helpers.

use serde_json::{Value, json};
use tokenmill_e2e::{Client, Setup};

const PATH: &str = "/v1/completions";

/// Ids 65 + 3.. of the fixture's vocabulary are single letters; a script makes the text known.
fn scripted() -> Setup {
    Setup { options: "script=275,279,306".to_owned(), ..Setup::default() }
}

#[test]
fn a_completion_has_openai_s_shape() {
    let server = scripted().start();
    let mut client = Client::new(server.address);
    let answer = client.post(PATH, &json!({"prompt": "hello", "max_tokens": 4, "temperature": 0})).ok();
    assert_eq!(answer["object"], "text_completion");
    assert!(answer["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!(answer["model"], "llama-gqa");
    let choice = &answer["choices"][0];
    assert_eq!((&choice["index"], &choice["finish_reason"]), (&json!(0), &json!("length")));
    assert_eq!(choice["logprobs"], Value::Null);
    assert_eq!(answer["usage"]["prompt_tokens"], 2);
    assert_eq!(answer["usage"]["completion_tokens"], 4);
    assert_eq!(answer["usage"]["total_tokens"], 6);
    server.settle();
}

#[test]
fn a_stream_says_what_the_whole_answer_says() {
    let server = scripted().start();
    let mut client = Client::new(server.address);
    for extra in
        [json!({}), json!({"logprobs": 2}), json!({"n": 2, "return_token_ids": true}), json!({"echo": true})]
    {
        let mut body = json!({"prompt": "hello world", "max_tokens": 24, "temperature": 0});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let whole = client.post(PATH, &body).ok();
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
        let streamed = client.stream(PATH, &body);
        assert!(streamed.done);
        for choice in whole["choices"].as_array().unwrap() {
            let index = choice["index"].as_u64().unwrap();
            assert_eq!(streamed.text(index), choice["text"].as_str().unwrap());
            assert_eq!(streamed.finish_reason(index), choice["finish_reason"].as_str());
            for column in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
                let parts = streamed.choices(index).filter_map(|part| part["logprobs"][column].as_array());
                let joined: Vec<Value> = parts.flatten().cloned().collect();
                assert_eq!(
                    choice["logprobs"][column].as_array().cloned().unwrap_or_default(),
                    joined,
                    "{column}"
                );
            }
            let ids: Vec<Value> = streamed
                .choices(index)
                .filter_map(|part| part["token_ids"].as_array())
                .flatten()
                .cloned()
                .collect();
            assert_eq!(choice["token_ids"].as_array().cloned().unwrap_or_default(), ids);
        }
        let last = streamed.chunks.last().unwrap();
        assert_eq!(last["choices"], json!([]));
        assert_eq!(last["usage"]["completion_tokens"], whole["usage"]["completion_tokens"]);
        assert!(streamed.chunks.iter().rev().skip(1).all(|chunk| chunk["usage"].is_null()));
    }
    server.settle();
}

/// What lm-eval asks: every prompt token scored, the first one without a score.
#[test]
fn echo_scores_the_prompt() {
    let server = scripted().start();
    let mut client = Client::new(server.address);
    for max_tokens in [0, 1] {
        let body = json!({
            "prompt": [[275, 279, 306], [306, 275]], "max_tokens": max_tokens, "temperature": 0,
            "logprobs": 1, "echo": true, "seed": 1,
        });
        let answer = client.post(PATH, &body).ok();
        for (i, prompt) in [3, 2].into_iter().enumerate() {
            let choice = &answer["choices"][i];
            assert_eq!(choice["index"], i);
            let logprobs = &choice["logprobs"];
            for column in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
                assert_eq!(logprobs[column].as_array().unwrap().len(), prompt + max_tokens, "{column}");
            }
            assert!(logprobs["token_logprobs"][0].is_null() && logprobs["top_logprobs"][0].is_null());
            assert!(logprobs["token_logprobs"][1].as_f64().unwrap() <= 0.0);
            assert!(!logprobs["top_logprobs"][1].as_object().unwrap().is_empty());
            let tokens = logprobs["tokens"].as_array().unwrap();
            let text: String = tokens.iter().map(|token| token.as_str().unwrap()).collect();
            assert_eq!(choice["text"], text);
        }
    }
    server.settle();
}

#[test]
fn best_of_shows_the_best_of_its_branches() {
    let server = Setup::default().start();
    let mut client = Client::new(server.address);
    let ask = |extra: Value| {
        let mut body =
            json!({"prompt": "hello", "max_tokens": 6, "seed": 3, "logprobs": 0, "ignore_eos": true});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    let mean = |choice: &Value| {
        let scores = choice["logprobs"]["token_logprobs"].as_array().unwrap();
        scores.iter().map(|score| score.as_f64().unwrap()).sum::<f64>() / scores.len() as f64
    };
    let all = client.post(PATH, &ask(json!({"n": 4}))).ok();
    let best = all["choices"].as_array().unwrap().iter().map(mean).fold(f64::NEG_INFINITY, f64::max);
    let shown = client.post(PATH, &ask(json!({"n": 1, "best_of": 4}))).ok();
    assert_eq!(shown["choices"].as_array().unwrap().len(), 1);
    assert!((mean(&shown["choices"][0]) - best).abs() < 1e-6);
    assert_eq!(shown["usage"]["completion_tokens"], 24);
    assert_eq!(client.post(PATH, &ask(json!({"best_of": 4, "stream": true}))).error(400)["param"], "best_of");
}
