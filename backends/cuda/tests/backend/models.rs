//! Every architecture: f32 against transformers, bf16 and f16 against the CPU backend.

use crate::support::{Runner, cpu, cuda, fixtures, floats, furthest, ids, json, load};

/// Those whose rotary tables do not depend on the length of a text.
const MODELS: [&str; 16] = [
    "gemma2",
    "gemma3",
    "llama-bias",
    "llama-gqa",
    "llama-head-dim",
    "llama-mha",
    "llama-mqa",
    "llama-rope-llama3",
    "llama-rope-yarn",
    "llama-sharded",
    "llama-tied",
    "mistral-window",
    "phi3",
    "phi3-partial",
    "qwen2",
    "qwen3",
];

/// Of a logit, beside transformers in f32.
const F32: f32 = 1e-4;
/// Of a logit, as a part of the largest: activations are rounded to the working type between operations, which the
/// CPU backend does before products alone.
const HALF: f32 = 0.03;

#[test]
fn f32_logits_and_greedy_tokens_equal_those_of_transformers() {
    let cuda = cuda();
    for name in MODELS {
        let dir = fixtures().join("models").join(name);
        let mut model = Runner(load(&cuda, &dir, &[0], 1, "dtype=f32"));
        let reference = json(&dir.join("reference.json"));
        for prompt in reference["prompts"].as_array().unwrap() {
            let (tokens, greedy) = (ids(&prompt["prompt_ids"]), ids(&prompt["greedy_ids"]));
            let rows: Vec<u32> = ids(&prompt["logits_positions"]).iter().map(|p| *p as u32).collect();
            let got = model.step(&tokens, 0, &rows);
            for (got, want) in got.iter().zip(prompt["logits"].as_array().unwrap()) {
                let off = furthest(got, &floats(want));
                assert!(off <= F32, "{name}: a logit is off by {off}");
            }
            assert_eq!(model.greedy(&tokens, greedy.len()), greedy, "{name}");
        }
    }
}

#[test]
fn half_precision_logits_are_near_those_of_the_cpu_backend() {
    let (cpu, cuda) = (cpu(), cuda());
    for name in ["gemma3", "llama-bias", "llama-gqa", "phi3", "qwen3"] {
        let dir = fixtures().join("models").join(name);
        let reference = json(&dir.join("reference.json"));
        let prompt = ids(&reference["prompts"][0]["prompt_ids"]);
        for dtype in ["bf16", "f16"] {
            let options = format!("dtype={dtype}");
            let want = Runner(load(&cpu, &dir, &[0], 1, &options)).logits(&prompt, 0);
            let got = Runner(load(&cuda, &dir, &[0], 1, &options)).logits(&prompt, 0);
            for (position, (got, want)) in got.iter().zip(&want).enumerate() {
                let largest = want.iter().fold(0.0_f32, |most, logit| most.max(logit.abs()));
                let off = furthest(got, want) / largest;
                assert!(off <= HALF, "{name}, {dtype}, position {position}: {off} of {largest}");
            }
        }
    }
}
