//! Text is the same however it comes: in frames, in one piece, or from its ids.

#![allow(clippy::unwrap_used, clippy::panic)] // A test may panic, and so may its helpers.

use serde_json::json;
use tokenmill_e2e::{Client, Setup, fixture};
use tokenmill_text::Tokenizer;

/// Hot sampling draws any of the 320 ids, bytes and halves of characters among them.
#[test]
fn streamed_whole_and_detokenised_are_equal_for_random_ids() {
    let server = Setup { ignore_end_tokens: true, ..Setup::default() }.start();
    let tokenizer = Tokenizer::from_dir(&fixture("llama-gqa")).unwrap();
    let mut client = Client::new(server.address);
    let (mut seen, mut broken) = (std::collections::HashSet::new(), 0);
    for seed in 0..300 {
        let mut body = json!({
            "prompt": [275, 279], "max_tokens": 1 + seed % 60, "seed": seed, "temperature": 2,
            "return_token_ids": true, "skip_special_tokens": seed % 2 == 0, "n": 1 + seed % 3,
        });
        let whole = client.post("/v1/completions", &body).ok();
        body["stream"] = json!(true);
        let streamed = client.stream("/v1/completions", &body);
        for choice in whole["choices"].as_array().unwrap() {
            let index = choice["index"].as_u64().unwrap();
            let text = choice["text"].as_str().unwrap();
            assert_eq!(streamed.text(index), text, "seed {seed}");
            let ids: Vec<u32> = serde_json::from_value(choice["token_ids"].clone()).unwrap();
            assert_eq!(tokenizer.decode(&ids, seed % 2 == 0).unwrap(), text, "seed {seed} {ids:?}");
            let in_frames =
                streamed.choices(index).filter_map(|choice| choice["token_ids"].as_array()).flatten();
            assert!(in_frames.eq(choice["token_ids"].as_array().unwrap()), "seed {seed}");
            broken += usize::from(text.contains('\u{fffd}'));
            seen.extend(ids);
        }
    }
    assert!(seen.len() > 250 && broken > 0, "{} different ids, {broken} texts with halves", seen.len());
    server.settle();
}

#[test]
fn only_listed_template_arguments_are_taken() {
    let server = Setup { template_kwargs: vec!["style".to_owned()], ..Setup::default() }.start();
    let mut client = Client::new(server.address);
    let chat = |name: &str, value| {
        let mut body = json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1});
        body[name] = value;
        body
    };
    let path = "/v1/chat/completions";
    client.post(path, &chat("chat_template_kwargs", json!({"style": "x"}))).ok();
    for (name, value) in [
        ("chat_template_kwargs", json!({"style": "x", "other": 1})),
        ("chat_template_kwargs", json!({"messages": []})),
        ("chat_template_kwargs", json!("style")),
        ("chat_template", json!("{{ messages }}")),
    ] {
        assert_eq!(client.post(path, &chat(name, value)).error(400)["param"], name);
    }
}
