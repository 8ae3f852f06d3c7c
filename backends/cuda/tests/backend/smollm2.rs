//! The default model's real weights in bf16, all thirty layers: logits beside the CPU backend, greedy tokens beside
//! transformers in f32 (`tests/fixtures/smollm2`).

use std::path::PathBuf;

use serde_json::Value;
use tokenmill_models::{Cache, DEFAULT_MODEL, Dtype};

use crate::support::{Runner, cpu, cuda, fixtures, floats, furthest, ids, json, load};

/// Tokens after the prompt.
const STEPS: usize = 12;
/// A logit may be off by so much: llama.cpp's in bf16 are off by a quarter from its own in f32.
const BOUND: f32 = 0.5;
/// Where the two best are this near, either may be chosen: nats.
const TIE: f32 = 0.125;

fn weights() -> PathBuf {
    match std::env::var_os("TOKENMILL_SMOLLM2") {
        Some(folder) => folder.into(),
        None => Cache::from_env().unwrap().pull(DEFAULT_MODEL, Dtype::Bf16, &mut |_| {}).unwrap().path,
    }
}

#[test]
fn logits_are_those_of_the_cpu_backend() {
    let dir = weights();
    let mut cpu = Runner(load(&cpu(), &dir, &[0], 1, "context=1024"));
    let mut cuda = Runner(load(&cuda(), &dir, &[0], 1, "context=1024"));
    let prompt = ids(&reference("chat")["prompt_ids"]);
    let last = [prompt.len() as u32 - 1];
    let (want, got) = (cpu.step(&prompt, 0, &last).remove(0), cuda.step(&prompt, 0, &last).remove(0));
    let off = furthest(&got, &want);
    println!("{} tokens: max |Δ logit| {off:.3}", prompt.len());
    assert!(off <= BOUND, "a logit is off by {off}");
}

/// Each token comes of the one sampled before, on the device.
#[test]
fn greedy_tokens_are_those_of_transformers() {
    let mut model = Runner(load(&cuda(), &weights(), &[0], 1, "context=1024"));
    let mut compared = 0;
    for name in ["plain", "chat"] {
        let reference = reference(name);
        let tokens = model.greedy(&ids(&reference["prompt_ids"]), STEPS);
        for (index, (token, step)) in tokens.iter().zip(reference["steps"].as_array().unwrap()).enumerate() {
            let (best, logits) = (ids(&step["top_ids"]), floats(&step["top_logits"]));
            let behind = best.iter().position(|id| id == token).map(|place| logits[0] - logits[place]);
            assert!(
                behind.is_some_and(|behind| behind < TIE),
                "{name}, token {index}: {token}, behind by {behind:?}"
            );
            if *token != best[0] {
                // Another text from here on.
                break;
            }
            compared += 1;
        }
    }
    println!("{compared} of {} tokens before a tie fell the other way", 2 * STEPS);
    assert!(compared > STEPS / 2, "only {compared} tokens were compared");
}

fn reference(name: &str) -> Value {
    json(&fixtures().join("smollm2").join(format!("{name}.json")))
}
