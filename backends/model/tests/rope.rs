//! Rotary tables against those of transformers (`tests/fixtures/rope.json`).
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use tokenmill_backend_model::config::Config;

fn cases() -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/rope.json");
    let json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    json["cases"].as_array().unwrap().clone()
}

/// A Llama with the rotation of one case.
fn config(case: &Value, spelling: &str) -> Config {
    let mut json = json!({
        "model_type": "llama", "hidden_size": 64, "num_attention_heads": 1, "head_dim": case["head_dim"],
        "num_hidden_layers": 1, "intermediate_size": 8, "vocab_size": 8,
        "max_position_embeddings": case["max_position_embeddings"],
    });
    for key in ["partial_rotary_factor", "original_max_position_embeddings"] {
        json[key] = case[key].clone();
    }
    if spelling == "rope_scaling" {
        json["rope_theta"] = case["rope_theta"].clone();
        json["rope_scaling"] = case["rope_scaling"].clone();
    } else {
        let mut parameters = case["rope_scaling"].clone();
        if parameters.is_null() {
            parameters = json!({"rope_type": "default"});
        }
        parameters["rope_theta"] = case["rope_theta"].clone();
        json["rope_parameters"] = parameters;
    }
    Config::parse(json.to_string().as_bytes()).unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

#[test]
fn frequencies_equal_those_of_transformers() {
    for case in cases() {
        for spelling in ["rope_scaling", "rope_parameters"] {
            let rope = &config(&case, spelling).ropes[0];
            assert_eq!(rope.rotary as u64, case["rotary_dim"].as_u64().unwrap(), "{}", case["name"]);
            let got = rope.frequencies(case["sequence_length"].as_u64().unwrap() as usize);
            let want = floats(&case["inv_freq"]);
            assert_eq!(got.inverse.len(), want.len());
            for (got, want) in got.inverse.iter().zip(&want) {
                assert!((got / want - 1.0).abs() <= 1e-6, "{} {spelling}: {got} for {want}", case["name"]);
            }
            let attention = case["attention_scaling"].as_f64().unwrap();
            assert!((got.attention - attention).abs() <= 1e-12, "{} {spelling}", case["name"]);
        }
    }
}

#[test]
fn cosines_and_sines_equal_those_of_transformers() {
    for case in cases() {
        // A table covers its context; these rotations do not depend on it beyond what the case states.
        let length = case["sequence_length"].as_u64().unwrap() as usize;
        let rope = &config(&case, "rope_scaling").ropes[0];
        let positions: Vec<usize> = floats(&case["positions"]).iter().map(|p| *p as usize).collect();
        let last = positions.iter().max().unwrap() + 1;
        let same = rope.frequencies(last) == rope.frequencies(length);
        let table = rope.table(if same { last } else { length });
        for (row, &position) in positions.iter().enumerate() {
            let tolerance = if position < 100 { 2e-5 } else { 1e-3 };
            let at = position * table.half..(position + 1) * table.half;
            let Some(cos) = table.cos.get(at.clone()) else { continue };
            let pairs = cos.iter().zip(floats(&case["cos"][row]));
            for (got, want) in pairs.chain(table.sin[at].iter().zip(floats(&case["sin"][row]))) {
                let off = (f64::from(*got) - want).abs();
                assert!(off <= tolerance, "{} position {position}: {got} for {want}", case["name"]);
            }
        }
    }
}
