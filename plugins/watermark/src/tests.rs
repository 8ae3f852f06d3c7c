use std::sync::Arc;

use serde_json::Value;
use tokenmill_plugin_simulate::{Asked, run};
use tokenmill_policy::Silent;

use super::*;
use crate::detect::weigh;

const VOCAB: u32 = 600;

/// Logits of a moderate entropy, another order after each token.
fn model(tokens: &[u32]) -> Vec<f32> {
    let last = tokens[tokens.len() - 1];
    (0..VOCAB)
        .map(|token| -1.3 * (1.0 + (mix(u64::from(last), u64::from(token)) % 600) as f32).ln())
        .collect()
}

fn configured(config: &str) -> Watermark {
    let mut policy = Watermark::default();
    policy.configure(config, Arc::new(Silent::default())).unwrap();
    policy
}

fn texts(config: &str, args: &[(&str, &str)]) -> Vec<Vec<u32>> {
    let asked = |seed| Asked { prompt: vec![5, 6], seed, max_tokens: 200, ..Asked::default() }.with(args);
    let asked: Vec<_> = (0..20).map(asked).collect();
    let outcomes = run(&mut configured(config), &model, &asked);
    outcomes.into_iter().map(|mut outcome| outcome.branches.remove(0).tokens).collect()
}

/// Five counts, by `tests/fixtures/policies/make.py`.
#[test]
fn evidence_is_that_of_the_paper() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/policies/samplers.json");
    let fixture: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases = fixture["watermark"].as_array().unwrap();
    for case in cases {
        let number = |key: &str| case[key].as_f64().unwrap();
        let ours = weigh(number("green") as usize, number("tokens") as usize, number("gamma"));
        assert!((ours.z - number("z")).abs() < 1e-5, "{ours:?}");
        assert!((ours.p / number("p") - 1.0).abs() < 1e-9, "{ours:?}");
    }
    assert_eq!(cases.len(), 5);
    assert_eq!(detect(&[3], 0, 0.25), None);
}

#[test]
fn lists_have_their_size_and_depend_on_key_and_token() {
    let size = |key, before| (0..49_152).filter(|&token| green(key, 0.25, before, token)).count();
    let both = (0..49_152).filter(|&token| green(1, 0.25, 7, token) && green(1, 0.25, 8, token)).count();
    // 12,288 and 3,072, with a standard deviation of 96 and 54.
    assert!([size(1, 7), size(1, 8), size(2, 7)].iter().all(|&size| size.abs_diff(12_288) < 400));
    assert!(both.abs_diff(3_072) < 220, "{both}");
}

#[test]
fn marked_texts_are_found_and_others_are_not() {
    for (config, key, gamma) in [(r#"{"key": 42}"#, 42, 0.25), (r#"{"key": 42, "gamma": 0.5}"#, 42, 0.5)] {
        for text in texts(config, &[]) {
            let found = detect(&text, key, gamma).unwrap();
            assert!(found.z > 4.0 && found.p < 1e-4, "{found:?}");
            assert!(detect(&text, key + 1, gamma).unwrap().z.abs() < 3.5, "another key");
        }
    }
    let unmarked = texts(r#"{"key": 42, "delta": 0}"#, &[]);
    let scores: Vec<f64> = unmarked.iter().map(|text| detect(text, 42, 0.25).unwrap().z).collect();
    assert!(scores.iter().all(|z| z.abs() < 3.0), "{scores:?}");
}

/// A text that goes in circles has few pairs, and is no evidence.
#[test]
fn repetition_is_no_evidence() {
    let pair = (0..VOCAB).find(|&token| green(42, 0.25, 9, token) && green(42, 0.25, token, 9)).unwrap();
    let text: Vec<u32> = [9, pair].repeat(500);
    let found = detect(&text, 42, 0.25).unwrap();
    assert!(found.pairs == 2 && found.z < 4.0, "{found:?}");
}

#[test]
fn at_temperature_0_the_most_likely_after_the_bias_is_taken() {
    let greedy = texts(r#"{"key": 42}"#, &[("temperature", "0")]);
    assert!(greedy.iter().all(|text| *text == greedy[0]));
    for pair in greedy[0].windows(2) {
        let mut logits = model(&pair[..1]);
        for (token, logit) in (0..).zip(&mut logits) {
            *logit += if green(42, 0.25, pair[0], token) { 2.0 } else { 0.0 };
        }
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert!((logits[pair[1] as usize] - best).abs() < 1e-5);
    }
}

#[test]
fn what_is_wrong_is_named() {
    for (key, value) in [("temperature", "-1"), ("top_k", "0"), ("top_k", "x")] {
        let asked = Asked::default().with(&[(key, value)]);
        let outcome = run(&mut configured(""), &model, &[asked]).remove(0);
        assert!(outcome.refused.unwrap().starts_with(&format!("policy.args.{key} ")), "{key} {value}");
    }
    for config in [r#"{"gamma": 0}"#, r#"{"gamma": 1}"#, r#"{"delta": -1}"#, r#"{"key": "x"}"#, r#"{"k": 1}"#]
    {
        assert!(Watermark::default().configure(config, Arc::new(Silent::default())).is_err(), "{config}");
    }
}
