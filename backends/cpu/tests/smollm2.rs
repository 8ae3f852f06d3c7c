//! The default model's real weights in f32 against transformers (`tests/fixtures/smollm2`).

#![allow(clippy::unwrap_used)]

mod common;

use std::path::PathBuf;

use common::{Model, Options, fixtures, floats, ids, json};
use tokenmill_models::{Cache, DEFAULT_MODEL, Dtype};

const PROMPTS: [&str; 6] = ["plain", "chat", "chat-system", "code", "unicode", "long"];
const STEPS: usize = 16;
/// Over the 20 most probable tokens of each step.
const TOLERANCE: f32 = 1e-3;

fn weights() -> PathBuf {
    let cache = Cache::from_env().unwrap();
    cache.pull(DEFAULT_MODEL, Dtype::F32, &mut |_| {}).unwrap().path
}

/// Log-probabilities of a row of logits.
fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - most).exp()).sum();
    logits.iter().map(|logit| logit - most - sum.ln() as f32).collect()
}

#[test]
fn greedy_tokens_and_log_probabilities_equal_those_of_transformers() {
    let dir = weights();
    let mut model = Model::load(&dir, &Options { context: Some(1024), ..Options::default() });
    for name in PROMPTS {
        let reference = json(&fixtures().join("smollm2").join(format!("{name}.json")));
        let mut tokens = ids(&reference["prompt_ids"]);
        let (mut most, mut pos) = (0.0_f32, 0);
        for step in &reference["steps"].as_array().unwrap()[..STEPS] {
            let fed = &tokens[pos..];
            let logits = model.step(fed, pos, &[fed.len() as u32 - 1]).remove(0);
            pos = tokens.len();
            let ours = log_softmax(&logits);
            let logsumexp = step["logsumexp"].as_f64().unwrap() as f32;
            for (id, logit) in ids(&step["top_ids"]).into_iter().zip(floats(&step["top_logits"])) {
                most = most.max((ours[id as usize] - (logit - logsumexp)).abs());
            }
            let want = step["token"].as_i64().unwrap() as i32;
            assert_eq!(common::argmax(&logits), want, "{name}, token {} of the answer", tokens.len());
            tokens.push(want);
        }
        println!("{name:12} {} tokens of prompt: max |Δ log-probability| {most:.1e}", tokens.len() - STEPS);
        assert!(most <= TOLERANCE, "{name}: {most}");
    }
}
