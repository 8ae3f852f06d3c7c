use std::sync::Arc;

use serde_json::Value;
use tokenmill_plugin_simulate::{Asked, Row, run};
use tokenmill_policy::Silent;

use super::*;

/// By a program of another author's definition: `tests/fixtures/policies/make.py`.
fn reference() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/policies/samplers.json");
    serde_json::from_slice::<Value>(&std::fs::read(path).unwrap()).unwrap()["mirostat"].take()
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

#[test]
fn tokens_and_cuts_are_those_of_the_definition() {
    let reference = reference();
    let vectors: Vec<_> = reference["vectors"].as_array().unwrap().iter().map(floats).collect();
    for case in reference["cases"].as_array().unwrap() {
        let (tau, eta) = (case["tau"].as_f64().unwrap() as f32, case["eta"].as_f64().unwrap() as f32);
        let mut cut = Cut::new(Settings { tau, eta });
        let steps = case["draws"].as_array().unwrap().iter().zip(case["steps"].as_array().unwrap());
        for (nth, (u, step)) in steps.enumerate() {
            let (tokens, logprobs) =
                Row(vec![vectors[nth % vectors.len()].clone()]).top_k(0, u32::MAX).unwrap();
            let row = Candidates { tokens: &tokens, logprobs: &logprobs, seed: 0, last: true };
            let token = cut.pick(&row, u.as_f64().unwrap()).unwrap();
            assert_eq!(u64::from(token), step[0].as_u64().unwrap(), "tau {tau} eta {eta} step {nth}");
            assert!(
                (f64::from(cut.most) - step[1].as_f64().unwrap()).abs() < 1e-3,
                "step {nth}: {}",
                cut.most
            );
        }
    }
}

/// Logits of a vocabulary of 1000 that falls like Zipf's law, in an order that depends on the last token.
fn zipf(tokens: &[u32]) -> Vec<f32> {
    let last = tokens[tokens.len() - 1];
    (0..1000u32).map(|token| -1.1 * (1.0 + ((token * 7 + last * 13) % 1000) as f32).ln()).collect()
}

#[test]
fn surprise_comes_to_the_target() {
    let mut policy = MirostatV2::default();
    policy.configure(r#"{"tau": 3}"#, Arc::new(Silent::default())).unwrap();
    let targets = [("3", Asked::default()), ("6", Asked::default().with(&[("tau", "6")]))];
    let asked: Vec<_> = targets.iter().map(|one| Asked { max_tokens: 600, ..one.1.clone() }).collect();
    let outcomes = run(&mut policy, &zipf, &asked);
    for ((target, _), outcome) in targets.iter().zip(outcomes) {
        let bits = -outcome.branches[0].score / 600.0 * std::f32::consts::LOG2_E;
        // Against the kept tokens the surprise is tau; against all it is a little more.
        let target: f32 = target.parse().unwrap();
        assert!(bits > target - 0.2 && bits < target + 1.5, "{bits} for {target}");
        assert_eq!(outcome.inspected, 600);
    }
}

#[test]
fn bad_arguments_are_refused_by_name() {
    let mut policy = MirostatV2::default();
    for (key, value) in [("tau", "0"), ("tau", "NaN"), ("eta", "2"), ("eta", "fast")] {
        let outcome = run(&mut policy, &zipf, &[Asked::default().with(&[(key, value)])]).remove(0);
        assert!(outcome.refused.unwrap().starts_with(&format!("policy.args.{key} ")), "{key} {value}");
    }
    assert!(policy.configure(r#"{"tau": -1}"#, Arc::new(Silent::default())).is_err());
    assert!(policy.configure(r#"{"mu": 1}"#, Arc::new(Silent::default())).is_err());
}
