//! The server over the CUDA backend, on the emulator's driver or a real GPU: the tokens that `transformers` gave,
//! one request at a time, from the prefix cache, and batched.

#![allow(clippy::unwrap_used, clippy::panic)] // A test may panic, and so may its helpers.

use serde_json::{Value, json};
use tokenmill_backend::Backend;
use tokenmill_e2e::{Client, Setup, fixture, library};
use tokenmill_engine::Config;

const PATH: &str = "/v1/completions";

#[test]
fn every_prompt_is_continued_as_transformers_does() {
    tokenmill_emulator::preload();
    let setup = Setup {
        backend: Some(Backend::open(&library("tokenmill_cuda")).unwrap()),
        options: "dtype=f32".to_owned(),
        engine: Config { max_batched_tokens: 16, max_seqs: 8, depth: 2, ..Config::default() },
        ignore_end_tokens: true,
        ..Setup::default()
    };
    let server = setup.start();
    let text = std::fs::read_to_string(fixture("llama-gqa").join("reference.json")).unwrap();
    let reference: Value = serde_json::from_str(&text).unwrap();
    let prompts = reference["prompts"].as_array().unwrap();
    let ask = |prompt: &Value| {
        let body = json!({
            "prompt": prompt["prompt_ids"], "max_tokens": 16, "temperature": 0, "ignore_eos": true,
            "return_token_ids": true,
        });
        let answer = Client::new(server.address).post(PATH, &body).ok();
        assert_eq!(answer["choices"][0]["token_ids"], prompt["greedy_ids"], "{}", prompt["prompt_ids"]);
    };
    prompts.iter().cycle().take(2 * prompts.len()).for_each(ask);
    std::thread::scope(|scope| {
        for prompt in prompts.iter().cycle().take(6) {
            scope.spawn(move || ask(prompt));
        }
    });
    server.settle();
}
