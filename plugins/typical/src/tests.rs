use std::sync::Arc;

use serde_json::Value;
use tokenmill_plugin_simulate::{Asked, Row, run};
use tokenmill_policy::Silent;

use super::*;

fn fixture() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/decode/processors.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// `null` is -inf.
fn floats(value: &Value) -> Vec<f32> {
    let float = |number: &Value| number.as_f64().map_or(f32::NEG_INFINITY, |number| number as f32);
    value.as_array().unwrap().iter().map(float).collect()
}

/// Probabilities of what is kept of all tokens, largest first, as the policy draws them.
fn kept(logits: &[f32], mass: f32) -> (Vec<u32>, Vec<f64>) {
    let (tokens, logprobs) = Row(vec![logits.to_vec()]).top_k(0, u32::MAX).unwrap();
    let weights = weights(&logprobs, 1.0);
    let kept = typical(&logprobs, (&weights, sum(&weights)), mass);
    let weights = &weights[kept.clone()];
    (tokens[kept].to_vec(), weights.iter().map(|weight| weight / sum(weights)).collect())
}

/// Equal logits may be told apart by the order of a sort, so counts and sorted probabilities are compared.
#[test]
fn what_is_kept_is_what_transformers_keeps() {
    let fixture = fixture();
    let mut cases = 0;
    for case in fixture["cases"].as_array().unwrap() {
        let Some(mass) = case["typical_p"].as_f64() else { continue };
        let logits = floats(&fixture["vectors"][case["vector"].as_str().unwrap()]);
        let (tokens, probabilities) = kept(&logits, mass as f32);
        let key = if case["kept_ids"].is_array() { "kept_probabilities" } else { "probabilities" };
        let mut expected = floats(&case[key]);
        expected.sort_by(|a, b| b.total_cmp(a));
        expected.truncate(case["kept"].as_u64().unwrap() as usize);
        assert_eq!(tokens.len(), expected.len(), "{case}");
        for (ours, theirs) in probabilities.iter().zip(expected) {
            assert!((ours - f64::from(theirs)).abs() < 1e-6, "{ours} {theirs} {}", case["vector"]);
        }
        cases += 1;
    }
    assert!(cases >= 25, "{cases}");
}

/// The two cases of llama.cpp's tests/test-sampling.cpp.
#[test]
fn what_is_kept_is_what_llama_cpp_keeps() {
    let logits = |probabilities: [f32; 4]| probabilities.map(f32::ln);
    assert_eq!(kept(&logits([0.97, 0.01, 0.01, 0.01]), 0.5).0, [0]);
    assert_eq!(kept(&logits([0.4, 0.2, 0.2, 0.2]), 0.5).0, [1, 2, 3]);
}

#[test]
fn candidates_that_leave_out_too_much_decide_nothing() {
    let logits: Vec<f32> = (0..500u32).map(|token| token as f32 * -1e-3).collect();
    let (tokens, logprobs) = Row(vec![logits]).top_k(0, u32::MAX).unwrap();
    let pick = |k: usize, last| {
        Settings::default().pick(&Candidates {
            tokens: &tokens[..k],
            logprobs: &logprobs[..k],
            seed: 1,
            last,
        })
    };
    assert_eq!((pick(64, false), pick(256, false)), (None, None));
    assert!(pick(500, false).is_some() && pick(64, true).is_some());
}

#[test]
fn draws_stay_inside_and_the_temperature_orders_them() {
    let model = |_: &[u32]| vec![0.0, 2.0, 1.9, 1.5, -3.0, -9.0];
    let mut policy = Typical::default();
    policy.configure(r#"{"typical_p": 0.6}"#, Arc::new(Silent::default())).unwrap();
    let (inside, _) = kept(&model(&[]), 0.6);
    let share = |policy: &mut Typical, temperature: &str| {
        let asked = Asked { max_tokens: 2000, ..Asked::default() }.with(&[("temperature", temperature)]);
        let tokens = run(policy, &model, &[asked]).remove(0).branches.remove(0).tokens;
        assert!(tokens.iter().all(|token| inside.contains(token)), "{inside:?}");
        tokens.iter().filter(|&&token| token == inside[0]).count()
    };
    let (cold, warm) = (share(&mut policy, "0.1"), share(&mut policy, "1"));
    assert!(cold > warm + 100, "{cold} {warm}");
}

#[test]
fn bad_arguments_are_refused_by_name() {
    let mut policy = Typical::default();
    for (key, value) in [("typical_p", "0"), ("typical_p", "1.5"), ("temperature", "0"), ("temperature", "x")]
    {
        let model = |_: &[u32]| vec![0.0, 1.0];
        let outcome = run(&mut policy, &model, &[Asked::default().with(&[(key, value)])]).remove(0);
        assert!(outcome.refused.unwrap().starts_with(&format!("policy.args.{key} ")), "{key} {value}");
    }
    assert!(policy.configure(r#"{"typical_p": 2}"#, Arc::new(Silent::default())).is_err());
}
