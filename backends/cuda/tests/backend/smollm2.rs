//! The default model's real weights in bf16, all thirty layers: logits beside the CPU backend, greedy tokens beside
//! transformers in f32 (`tests/fixtures/smollm2`).

use std::path::PathBuf;

use tokenmill_models::{Cache, DEFAULT_MODEL, Dtype};

use crate::support::{Runner, argmax, cpu, cuda, fixtures, floats, furthest, ids, json, load};

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
fn logits_are_those_of_the_cpu_backend_and_greedy_tokens_those_of_transformers() {
    let dir = weights();
    let mut cpu = Runner(load(&cpu(), &dir, &[0], 1, "context=1024"));
    let mut cuda = Runner(load(&cuda(), &dir, &[0], 1, "context=1024"));
    let compared: usize = ["plain", "chat"].map(|name| compare(name, &mut cpu, &mut cuda)).iter().sum();
    assert!(compared > STEPS, "{compared} tokens were compared");
}

/// How many tokens were as they should before the texts parted at a tie.
fn compare(name: &str, cpu: &mut Runner, cuda: &mut Runner) -> usize {
    let reference = json(&fixtures().join("smollm2").join(format!("{name}.json")));
    let prompt = ids(&reference["prompt_ids"]);
    let last = [prompt.len() as u32 - 1];
    let (want, got) = (cpu.step(&prompt, 0, &last).remove(0), cuda.step(&prompt, 0, &last).remove(0));
    let off = furthest(&got, &want);
    println!("{name}, {} tokens: max |Δ logit| {off:.3} beside the CPU backend", prompt.len());
    assert!(off <= BOUND, "{name}: a logit is off by {off}");
    assert_eq!(argmax(&got), argmax(&want), "{name}");

    // One after the other, each from what was sampled before, on the device.
    let tokens = cuda.greedy(&prompt, STEPS);
    for (index, (token, step)) in tokens.iter().zip(reference["steps"].as_array().unwrap()).enumerate() {
        let (best, logits) = (ids(&step["top_ids"]), floats(&step["top_logits"]));
        let behind = best.iter().position(|id| id == token).map(|place| logits[0] - logits[place]);
        assert!(
            behind.is_some_and(|behind| behind < TIE),
            "{name}, token {index}: {token}, behind by {behind:?}"
        );
        if *token != best[0] {
            // Another text from here on.
            return index;
        }
    }
    STEPS
}
