use std::sync::Arc;

use serde_json::Value;
use tokenmill_plugin_simulate::{Asked, run};
use tokenmill_policy::{Services, Silent};

use super::*;

/// Penalties after a history, where breakers are token ids.
fn penalties(settings: Settings, history: &[u32], breakers: &[u32]) -> Vec<(u32, f32)> {
    let mut all = History::new(settings, breakers.into());
    all.extend(history);
    all.penalties().into_iter().collect()
}

fn numbers(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|number| number.as_u64().unwrap() as u32).collect()
}

/// 120 histories, by `tests/fixtures/policies/make.py`.
#[test]
fn penalties_are_those_of_the_definition() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/policies/samplers.json");
    let fixture: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut penalised = 0;
    for case in fixture["dry"].as_array().unwrap() {
        let settings = Settings {
            multiplier: case["multiplier"].as_f64().unwrap() as f32,
            base: case["base"].as_f64().unwrap() as f32,
            allowed_length: case["allowed"].as_u64().unwrap() as u32,
            penalty_last_n: case["last_n"].as_i64().unwrap() as i32,
            sequence_breakers: Vec::new(),
        };
        let ours = penalties(settings, &numbers(&case["history"]), &numbers(&case["breakers"]));
        let theirs = case["penalties"].as_array().unwrap();
        assert_eq!(ours.len(), theirs.len(), "{case}");
        for ((token, penalty), expected) in ours.into_iter().zip(theirs) {
            let theirs = expected[1].as_f64().unwrap();
            assert_eq!(u64::from(token), expected[0].as_u64().unwrap());
            assert!((f64::from(penalty) - theirs).abs() < 2e-5 * theirs.max(1.0), "{penalty} {theirs}");
            penalised += 1;
        }
    }
    assert!(penalised > 30, "{penalised}");
}

/// The five cases of llama.cpp's tests/test-sampling.cpp: probabilities after the penalties.
#[test]
fn probabilities_are_those_of_llama_cpp() {
    type Case = (usize, &'static [u32], &'static [f32], f32, u32, i32, &'static [u32]);
    let cases: [Case; 5] = [
        (4, &[0, 1], &[0.25; 4], 1.0, 2, 4, &[]),
        (4, &[0, 1, 2, 0, 1], &[0.296923, 0.296923, 0.109232, 0.296923], 1.0, 2, 5, &[]),
        (5, &[0, 1, 3, 4, 0, 1], &[0.2; 5], 1.0, 2, 6, &[3]),
        (5, &[0, 1, 2, 0, 1], &[0.241818, 0.241818, 0.032727, 0.241818, 0.241818], 2.0, 2, 5, &[]),
        (5, &[0, 1, 2, 3, 4, 0, 1], &[0.2; 5], 1.0, 4, 7, &[]),
    ];
    for (vocab, history, expected, multiplier, allowed_length, penalty_last_n, breakers) in cases {
        let settings =
            Settings { multiplier, base: 1.1, allowed_length, penalty_last_n, sequence_breakers: Vec::new() };
        let mut weights = vec![1f32; vocab];
        for (token, penalty) in penalties(settings, history, breakers) {
            weights[token as usize] *= (-penalty).exp();
        }
        let sum: f32 = weights.iter().sum();
        let close =
            weights.iter().zip(expected).all(|(weight, expected)| (weight / sum - expected).abs() < 1e-5);
        assert!(close, "{weights:?} {expected:?}");
    }
}

/// Token t is the text of entry t; texts are tokenized by the longest match.
struct Words(&'static [&'static str]);

impl Services for Words {
    fn log(&self, _: &str) {}

    fn vocab(&self) -> u32 {
        self.0.len() as u32
    }

    fn token_bytes(&self, first: u32, count: u32) -> (Vec<u32>, Vec<u8>) {
        let (mut starts, mut bytes) = (vec![0], Vec::new());
        for word in self.0.iter().skip(first as usize).take(count as usize) {
            bytes.extend_from_slice(word.as_bytes());
            starts.push(bytes.len() as u32);
        }
        (starts, bytes)
    }

    fn tokenize(&self, mut text: &str) -> Vec<u32> {
        let mut tokens = Vec::new();
        while let Some((token, word)) =
            (0..).zip(self.0).filter(|(_, word)| text.starts_with(**word)).max_by_key(|(_, word)| word.len())
        {
            tokens.push(token);
            text = &text[word.len()..];
        }
        tokens
    }
}

const WORDS: &[&str] = &["a", "b", "c", ".\"", "\n", "##", "#"];

fn policy(config: &str) -> Dry {
    let mut policy = Dry::default();
    policy.configure(config, Arc::new(Words(WORDS))).unwrap();
    policy
}

/// A model that repeats what came two tokens before, if it can.
fn parrot(tokens: &[u32]) -> Vec<f32> {
    let mut logits = vec![0.0; WORDS.len()];
    logits[tokens[tokens.len() - 2] as usize] = 3.0;
    logits
}

fn told(policy: &mut Dry, args: &[(&str, &str)], prompt: &[u32]) -> Vec<u32> {
    let asked = Asked { prompt: prompt.to_vec(), max_tokens: 24, ..Asked::default() }.with(args);
    let mut outcome = run(policy, &parrot, &[asked]).remove(0);
    assert_eq!((outcome.refused, outcome.inspected), (None, 0));
    outcome.branches.remove(0).tokens
}

#[test]
fn a_parrot_is_stopped_by_biases_alone() {
    let mut policy = policy("");
    let free = told(&mut policy, &[("multiplier", "0")], &[1, 2]);
    assert!(free.iter().enumerate().all(|(i, &token)| token == 1 + i as u32 % 2));
    let held = told(&mut policy, &[], &[1, 2]);
    // "bcbc" matches 2 tokens, so the next b falls by 0.8, then by 1.4, 2.45 and 4.29, which is more than 3.
    assert_eq!(held[..6], [1, 2, 1, 2, 1, 0], "{held:?}");
}

/// A breaker inside of a token counts, and of one that takes several tokens the last does.
#[test]
fn breakers_are_found_in_the_text_of_tokens() {
    let quote = told(&mut policy(""), &[], &[3, 2]);
    assert!(quote.iter().enumerate().all(|(i, &token)| token == [3, 2][i % 2]), "{quote:?}");
    let own = [("sequence_breakers", r####"["###"]"####)];
    let hash = told(&mut policy(""), &own, &[6, 2]);
    assert!(hash.iter().enumerate().all(|(i, &token)| token == [6, 2][i % 2]), "{hash:?}");
    assert_eq!(told(&mut policy(""), &own, &[3, 2])[..6], [3, 2, 3, 2, 3, 0]);
    let none = policy(r#"{"sequence_breakers": []}"#);
    assert_eq!(told(&mut { none }, &[], &[3, 2])[..6], [3, 2, 3, 2, 3, 0]);
}

#[test]
fn bad_arguments_are_refused_by_name() {
    let bad = [
        ("multiplier", "-1"),
        ("base", "0.5"),
        ("allowed_length", "0"),
        ("penalty_last_n", "-2"),
        ("sequence_breakers", "\n"),
        ("sequence_breakers", r#"[""]"#),
        ("sequence_breakers", "[7]"),
    ];
    for (key, value) in bad {
        let outcome =
            run(&mut policy(""), &|_| vec![0.0], &[Asked::default().with(&[(key, value)])]).remove(0);
        assert!(outcome.refused.unwrap().starts_with(&format!("policy.args.{key} ")), "{key} {value}");
    }
    for config in [r#"{"base": 0}"#, r#"{"sequence_breakers": "x"}"#, r#"{"length": 2}"#] {
        assert!(Dry::default().configure(config, Arc::new(Silent::default())).is_err(), "{config}");
    }
}

/// A policy that was restarted is told everything at once, one that was not token by token.
#[test]
fn what_is_told_again_replaces_what_was_known() {
    use tokenmill_policy::sample::{Columns, Ragged};
    let mut policy = policy("");
    let tokens = [1, 2, 1, 2, 1, 2];
    let mut plan = |from: u32, to: u32| {
        let starts = [0, to - from];
        let values = &tokens[from as usize..to as usize];
        let accepted = Ragged { starts: &starts, values };
        let (ids, positions) = ([1u64 << 40], [to]);
        let view = Columns { ids: &ids, positions: &positions, accepted, ..Columns::default() };
        let mut knobs = Knobs::default();
        policy.plan(&view, &mut knobs).unwrap();
        knobs.bias
    };
    plan(0, 4);
    plan(4, 5);
    let told_once = plan(5, 6);
    assert_eq!((told_once.len(), plan(0, 6)), (1, told_once));
}
