//! Ranks that follow each other give the logits of one, bit by bit.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Model, Options, fixtures, ids, json};

#[test]
fn stages_give_the_same_logits() {
    // A tied head apart from its table, post norms with soft caps, two rotations and uneven stages, biases.
    for (name, stages) in [("llama-gqa", 2), ("llama-tied", 2), ("gemma2", 2), ("gemma3", 2), ("gemma3", 3)] {
        for tensor_parallel in [1, 2] {
            compare(name, stages, tensor_parallel);
        }
    }
    compare("llama-bias", 2, 4);
}

fn compare(name: &str, stages: usize, tensor_parallel: usize) {
    let dir = fixtures().join("models").join(name);
    let load = |stages| {
        Model::load(&dir, &Options { ranks: stages * tensor_parallel, stages, ..Options::default() })
    };
    let (mut many, mut one) = (load(stages), load(1));
    for prompt in json(&dir.join("reference.json"))["prompts"].as_array().unwrap() {
        let (tokens, want) = (ids(&prompt["prompt_ids"]), ids(&prompt["greedy_ids"]));
        let what = format!("{name} in {stages} stages of {tensor_parallel}");
        assert_eq!(many.greedy(&tokens, want.len()), want, "{what}");
        assert_eq!(many.last(&tokens), one.last(&tokens), "{what}");
    }
}
