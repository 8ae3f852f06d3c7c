//! Beam search through the engine, compared with transformers.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use serde_json::Value;
use tokenmill_engine::{Config, Request};
use tokenmill_policies::{Answer, Setup, ask};

fn cases(model: &str) -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/decode/beam_search.json");
    let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    file["cases"].as_array().unwrap().iter().filter(|case| case["model"] == model).cloned().collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn request(case: &Value) -> Request {
    let width = text(&case["num_beams"]);
    let args = [
        ("width", width.as_str()),
        ("length_penalty", &text(&case["length_penalty"])),
        ("early_stopping", &text(&case["early_stopping"])),
    ];
    Request {
        stop_tokens: ids(&case["eos_token_ids"]),
        max_branches: width.parse().unwrap(),
        ..ask(&ids(&case["prompt_ids"]), case["max_new_tokens"].as_u64().unwrap() as u32, &args)
    }
}

/// Sequences are equal, and scores within 1e-4; two neighbours of the fixture differ by 2.3e-4 at least.
fn compare(case: &Value, answer: &Answer) {
    let penalty = case["length_penalty"].as_f64().unwrap();
    let sequences = case["sequences"].as_array().unwrap();
    let best = answer.best(penalty);
    assert!(answer.done && best.len() >= sequences.len(), "{case}\n{answer:?}");
    for (nth, (expected, found)) in sequences.iter().zip(best).enumerate() {
        assert_eq!(found.tokens, ids(expected), "text {nth} of {case}");
        let off = found.score(penalty) - case["scores"][nth].as_f64().unwrap();
        assert!(off.abs() < 1e-4, "score {nth} of {case}: off by {off}");
    }
}

fn equals_transformers(setup: Setup, model: &'static str, together: bool) {
    let cases = cases(model);
    assert_eq!(cases.len(), 32);
    let setup = Setup { model, ..setup };
    let requests: Vec<Request> = cases.iter().map(request).collect();
    let answers = if together {
        setup.run("beam-search", "", &requests)
    } else {
        requests.iter().map(|one| setup.run("beam-search", "", std::slice::from_ref(one)).remove(0)).collect()
    };
    for (case, answer) in cases.iter().zip(&answers) {
        compare(case, answer);
    }
}

#[test]
fn one_by_one_it_equals_transformers() {
    for model in ["llama-gqa", "qwen2"] {
        equals_transformers(Setup::default(), model, false);
    }
}

#[test]
fn together_in_any_setting_it_equals_transformers() {
    for model in ["llama-gqa", "qwen2"] {
        for (depth, prefix_caching, max_batched_tokens) in [(1, false, 2048), (2, true, 2048), (2, true, 9)] {
            let engine = Config { depth, prefix_caching, max_batched_tokens, ..Config::default() };
            equals_transformers(Setup { engine, ..Setup::default() }, model, true);
        }
    }
}
