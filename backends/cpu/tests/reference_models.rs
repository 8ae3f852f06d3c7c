//! Every architecture against the logits and greedy tokens of transformers
//! (`tests/fixtures/models/*/reference.json`), with both spellings of the configuration.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::PathBuf;

use common::{Model, Options, argmax, fixtures, floats, furthest, ids, json};
use tokenmill_backend_model::config::{Config, Scaling};
use tokenmill_backend_model::error::Error;

const TOLERANCE: f32 = 1e-4;
const CONFIGS: [&str; 2] = ["config.json", "config_v5.json"];

fn all() -> Vec<PathBuf> {
    let mut dirs: Vec<_> =
        std::fs::read_dir(fixtures().join("models")).unwrap().map(|entry| entry.unwrap().path()).collect();
    dirs.sort();
    assert!(dirs.len() >= 21, "fixtures are missing");
    dirs
}

fn config(dir: &std::path::Path, name: &str) -> Result<Config, Error> {
    Config::parse(&std::fs::read(dir.join(name)).unwrap())
}

/// Fixtures the decoder supports.
fn dense() -> Vec<PathBuf> {
    all().into_iter().filter(|dir| config(dir, CONFIGS[0]).is_ok()).collect()
}

fn name(dir: &std::path::Path) -> String {
    dir.file_name().unwrap().to_string_lossy().into_owned()
}

/// Transformers rotates a whole text by a table made for its length; we have one table per load.
fn rotates_by_length(config: &Config) -> bool {
    config.ropes.iter().any(|r| matches!(r.scaling, Scaling::Dynamic { .. } | Scaling::LongRope { .. }))
}

#[test]
fn mixtures_of_experts_are_refused_by_name() {
    let mut refused = Vec::new();
    for dir in all() {
        for file in CONFIGS {
            if let Err(error) = config(&dir, file) {
                assert!(
                    matches!(&error, Error::Unsupported(text) if text.contains("mixture of experts")),
                    "{error}"
                );
                refused.push(name(&dir));
            }
        }
    }
    assert_eq!(refused, ["mixtral", "mixtral", "qwen3-moe", "qwen3-moe"]);
}

#[test]
fn logits_equal_those_of_transformers() {
    for dir in dense() {
        let reference = json(&dir.join("reference.json"));
        for file in CONFIGS {
            let mut most: f32 = 0.0;
            for prompt in reference["prompts"].as_array().unwrap() {
                let tokens = ids(&prompt["prompt_ids"]);
                let by_length = rotates_by_length(&config(&dir, file).unwrap());
                let context = by_length.then_some(tokens.len());
                let mut model = Model::load(&dir, &Options { config: file, context, ..Options::default() });
                let rows: Vec<u32> = ids(&prompt["logits_positions"]).iter().map(|p| *p as u32).collect();
                let got = model.step(&tokens, 0, &rows);
                for (got, want) in got.iter().zip(prompt["logits"].as_array().unwrap()) {
                    most = most.max(furthest(got, &floats(want)));
                }
            }
            println!("{:20} {file:15} max |Δ logit| {most:.1e}", name(&dir));
            assert!(most <= TOLERANCE, "{} {file}: {most}", name(&dir));
        }
    }
}

#[test]
fn greedy_tokens_equal_those_of_transformers() {
    for dir in dense() {
        let reference = json(&dir.join("reference.json"));
        for prompt in reference["prompts"].as_array().unwrap() {
            let (tokens, want) = (ids(&prompt["prompt_ids"]), ids(&prompt["greedy_ids"]));
            let got = if rotates_by_length(&config(&dir, CONFIGS[0]).unwrap()) {
                recomputed(&dir, &tokens, want.len())
            } else {
                Model::load(&dir, &Options::default()).greedy(&tokens, want.len())
            };
            assert_eq!(got, want, "{}, prompt of {}", name(&dir), tokens.len());
        }
    }
}

/// Every step from scratch with the table of its length, as the reference was made.
fn recomputed(dir: &std::path::Path, prompt: &[i32], count: usize) -> Vec<i32> {
    let mut tokens = prompt.to_vec();
    for _ in 0..count {
        let context = Some(tokens.len());
        let mut model = Model::load(dir, &Options { context, ..Options::default() });
        tokens.push(argmax(&model.last(&tokens)));
    }
    tokens.split_off(prompt.len())
}

#[test]
fn chunked_prefill_gives_the_same_logits() {
    for dir in dense() {
        let reference = json(&dir.join("reference.json"));
        let tokens = ids(&reference["prompts"][2]["prompt_ids"]);
        let whole = Model::load(&dir, &Options::default()).last(&tokens);
        for chunk in [1, 3, 16] {
            let mut model = Model::load(&dir, &Options::default());
            let mut last = Vec::new();
            for (index, part) in tokens.chunks(chunk).enumerate() {
                last = model.step(part, index * chunk, &[part.len() as u32 - 1]).remove(0);
            }
            let off = furthest(&last, &whole);
            assert!(off <= 2e-5, "{} in chunks of {chunk}: {off}", name(&dir));
        }
    }
}

#[test]
fn half_precision_weights_stay_close() {
    use tokenmill_backend_model::device::Dtype;
    let dir = fixtures().join("models/llama-gqa");
    let reference = json(&dir.join("reference.json"));
    let prompt = &reference["prompts"][1];
    let (tokens, want) = (ids(&prompt["prompt_ids"]), floats(&prompt["logits"][6]));
    // What transformers itself is off by in these types: tests/fixtures, README of the reference.
    for (dtype, bound) in [(Dtype::F16, 0.06), (Dtype::Bf16, 0.6)] {
        let got = Model::load(&dir, &Options { dtype: Some(dtype), ..Options::default() }).last(&tokens);
        let off = furthest(&got, &want);
        assert!(off > 0.0 && off <= bound, "{}: {off}", dtype.name());
    }
}
