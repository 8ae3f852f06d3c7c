//! The server over the CPU backend: every way to the tokens gives the tokens `transformers` gave.

#![allow(clippy::unwrap_used, clippy::panic)] // A test may panic, and so may its helpers.

use serde_json::{Value, json};
use tokenmill_backend::Backend;
use tokenmill_e2e::{Client, Running, Setup, fixture, library};
use tokenmill_engine::Config;

const PATH: &str = "/v1/completions";

/// Exact arithmetic, so that a tie cannot fall either way.
fn cpu(engine: Config) -> Setup {
    Setup {
        backend: Some(Backend::open(&library("tokenmill_cpu")).unwrap()),
        options: "dtype=f32\nkv_dtype=f32\nthreads=1".to_owned(),
        engine,
        ignore_end_tokens: true,
        ..Setup::default()
    }
}

/// Prompts and their greedy continuations, by `transformers`.
fn reference() -> Vec<(Value, Value)> {
    let text = std::fs::read_to_string(fixture("llama-gqa").join("reference.json")).unwrap();
    let file: Value = serde_json::from_str(&text).unwrap();
    let prompts = file["prompts"].as_array().unwrap().iter();
    prompts.map(|prompt| (prompt["prompt_ids"].clone(), prompt["greedy_ids"].clone())).collect()
}

fn ask(prompt: &Value, extra: Value) -> Value {
    let mut body = json!({
        "prompt": prompt, "max_tokens": 16, "temperature": 0, "ignore_eos": true, "return_token_ids": true,
    });
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

/// Token ids of every choice, in the order of `index`.
fn ids(answer: &Value) -> Vec<Value> {
    answer["choices"].as_array().unwrap().iter().map(|choice| choice["token_ids"].clone()).collect()
}

/// Every prompt, alone, again from the prefix cache, and then all of them at the same time.
fn gives_the_reference(server: &Running) {
    let reference = reference();
    let mut client = Client::new(server.address);
    for pass in ["cold", "warm"] {
        for (prompt, greedy) in &reference {
            let answer = client.post(PATH, &ask(prompt, json!({}))).ok();
            assert_eq!(ids(&answer), std::slice::from_ref(greedy), "{pass} {prompt}");
        }
    }
    std::thread::scope(|scope| {
        for (prompt, greedy) in reference.iter().cycle().take(12) {
            scope.spawn(move || {
                let answer = Client::new(server.address).post(PATH, &ask(prompt, json!({}))).ok();
                assert_eq!(ids(&answer), std::slice::from_ref(greedy), "together {prompt}");
            });
        }
    });
    server.settle();
}

#[test]
fn every_way_gives_the_same_greedy_tokens() {
    for max_batched_tokens in [1, 3, 16, 2048] {
        for (max_seqs, depth, prefix_caching, draft_tokens) in [
            (1, 1, false, 0),
            (1, 2, true, 0),
            (64, 1, true, 0),
            (64, 2, false, 0),
            (1, 2, false, 3),
            (64, 2, true, 5),
        ] {
            let config = Config {
                max_batched_tokens,
                max_seqs,
                depth,
                prefix_caching,
                draft_tokens,
                ..Config::default()
            };
            println!("{config:?}");
            gives_the_reference(&cpu(config).start());
        }
    }
}

#[test]
fn a_second_time_hits_the_prefix() {
    let server = cpu(Config::default()).start();
    let mut client = Client::new(server.address);
    let (prompt, greedy) = reference().pop().unwrap();
    for cached in [0, 32] {
        let answer = client.post(PATH, &ask(&prompt, json!({}))).ok();
        assert_eq!(ids(&answer), std::slice::from_ref(&greedy));
        assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], cached);
    }
    server.settle();
}

/// A block of 16 tokens is 2 layers × K and V × 2 heads × 16 dimensions × 4 bytes × 16 = 8 KiB.
#[test]
fn a_pool_too_small_for_all_gives_the_same_tokens() {
    let setup = Setup { kv_bytes: 10 * 8192, ..cpu(Config::default()) };
    let server = setup.start();
    let blocks = server.engine.stats().blocks.total;
    assert!((8..=10).contains(&blocks), "{blocks}");
    for _ in 0..3 {
        gives_the_reference(&server);
    }
}

/// Forks of one prompt share its blocks, and each goes its own way, the same way wherever it runs.
#[test]
fn seeded_forks_are_the_same_everywhere() {
    let (prompt, _) = reference().pop().unwrap();
    let body = ask(&prompt, json!({"n": 3, "seed": 11, "temperature": 1.0}));
    let run = |setup: Setup| {
        let server = setup.start();
        let mut client = Client::new(server.address);
        let (cold, warm) = (ids(&client.post(PATH, &body).ok()), ids(&client.post(PATH, &body).ok()));
        assert_eq!(cold, warm);
        server.settle();
        cold
    };
    let plain = run(cpu(Config { max_seqs: 3, depth: 1, prefix_caching: false, ..Config::default() }));
    assert_eq!(plain.len(), 3);
    assert!(plain[0] != plain[1] && plain[1] != plain[2] && plain[0] != plain[2], "{plain:?}");
    for max_batched_tokens in [3, 16, 2048] {
        for depth in [1, 2] {
            let config = Config { max_batched_tokens, depth, ..Config::default() };
            assert_eq!(run(cpu(config)), plain, "{config:?}");
        }
    }
    assert_eq!(run(cpu(Config { draft_tokens: 4, ..Config::default() })), plain);
    let small = Setup { kv_bytes: 8 * 8192, ..cpu(Config::default()) };
    assert_eq!(run(small), plain);
}

/// Scores need the logits of the whole prompt, which a cached prefix does not have.
#[test]
fn echo_scores_a_cached_prompt_the_same() {
    let (prompt, greedy) = reference().pop().unwrap();
    let server = cpu(Config::default()).start();
    let mut client = Client::new(server.address);
    let score = ask(&prompt, json!({"echo": true, "logprobs": 3, "max_tokens": 4}));
    let first = client.post(PATH, &score).ok();
    assert_eq!(ids(&client.post(PATH, &ask(&prompt, json!({}))).ok()), [greedy]);
    let second = client.post(PATH, &score).ok();
    let logprobs = &first["choices"][0]["logprobs"];
    let length = prompt.as_array().unwrap().len() + 4;
    assert_eq!(logprobs["token_logprobs"].as_array().unwrap().len(), length);
    assert!(logprobs["token_logprobs"].as_array().unwrap()[1..].iter().all(Value::is_f64), "{logprobs}");
    assert_eq!(logprobs, &second["choices"][0]["logprobs"]);
    server.settle();
}

/// A step that verifies guesses computes what the plain steps do. A bias makes the last text repetitive.
#[test]
fn guessed_tokens_are_the_plain_tokens_in_fewer_steps() {
    let (prompt, _) = reference().pop().unwrap();
    let run = |draft_tokens, body: &Value| {
        let server = cpu(Config { draft_tokens, ..Config::default() }).start();
        let answer = Client::new(server.address).post(PATH, body).ok();
        server.settle();
        (answer["choices"][0].clone(), server.engine.stats())
    };
    let mut accepted = 0;
    let drawn = json!({"temperature": 0.7, "seed": 3, "logit_bias": {"7": 10, "9": 10}});
    for extra in [json!({}), json!({"logprobs": 3}), drawn] {
        let mut body = ask(&prompt, extra);
        body["max_tokens"] = json!(80);
        let (plain, before) = run(0, &body);
        let (guessed, stats) = run(4, &body);
        assert_eq!(guessed, plain);
        assert_eq!((before.steps, stats.steps + stats.accepted_tokens), (80, 80));
        accepted = stats.accepted_tokens;
        assert!(accepted < stats.draft_tokens);
    }
    assert!(accepted > 20, "{accepted}");
}
