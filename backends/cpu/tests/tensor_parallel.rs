//! Two and four ranks give the tokens of one.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Model, Options, fixtures, furthest, ids, json};

#[test]
fn ranks_give_the_same_tokens() {
    // MHA, GQA, repeated KV heads (MQA), biases, fused weights, post norms with soft caps, QK norm.
    let models = [
        ("llama-mha", 4),
        ("llama-gqa", 4),
        ("llama-mqa", 2),
        ("llama-bias", 4),
        ("phi3", 4),
        ("gemma2", 4),
        ("gemma3", 2),
        ("qwen2", 4),
        ("qwen3", 4),
    ];
    for (name, most) in models {
        for ranks in [2, 4].into_iter().filter(|ranks| *ranks <= most) {
            compare(name, ranks);
        }
    }
}

fn compare(name: &str, ranks: usize) {
    let dir = fixtures().join("models").join(name);
    let mut many = Model::load(&dir, &Options { ranks, ..Options::default() });
    let mut one = Model::load(&dir, &Options::default());
    for prompt in json(&dir.join("reference.json"))["prompts"].as_array().unwrap() {
        let (tokens, want) = (ids(&prompt["prompt_ids"]), ids(&prompt["greedy_ids"]));
        assert_eq!(many.greedy(&tokens, want.len()), want, "{name} on {ranks} ranks");
        let off = furthest(&many.last(&tokens), &one.last(&tokens));
        assert!(off <= 1e-4, "{name} on {ranks} ranks: {off}");
    }
}
