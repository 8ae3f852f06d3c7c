//! One model, however its configuration is spelled.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use serde_json::{Value, json};
use tokenmill_backend_model::config::{Config, Layer, Scaling};

fn fixture(name: &str, file: &str) -> Value {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models").join(name);
    serde_json::from_slice(&std::fs::read(dir.join(file)).unwrap()).unwrap()
}

fn parse(json: &Value) -> Config {
    Config::parse(json.to_string().as_bytes()).unwrap()
}

#[test]
fn both_spellings_of_every_fixture_read_alike() {
    for name in [
        "llama-gqa",
        "llama-rope-yarn",
        "llama-rope-dynamic",
        "phi3-longrope",
        "phi3-partial",
        "gemma2",
        "gemma3",
    ] {
        let (old, new) = (parse(&fixture(name, "config.json")), parse(&fixture(name, "config_v5.json")));
        assert_eq!(format!("{old:?}"), format!("{new:?}"), "{name}");
    }
}

#[test]
fn the_text_model_of_a_multimodal_checkpoint_is_read() {
    let text = fixture("gemma3", "config.json");
    let nested = json!({"model_type": "gemma3", "vision_config": {}, "text_config": text.clone()});
    assert_eq!(format!("{:?}", parse(&nested)), format!("{:?}", parse(&text)));
}

/// What google/gemma-3-4b-it publishes: the rest are defaults.
#[test]
fn gemma3_fills_in_what_checkpoints_leave_out() {
    let config = parse(&json!({"model_type": "gemma3", "text_config": {
        "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
    }}));
    assert_eq!((config.heads.query, config.heads.kv, config.heads.dim), (8, 4, 256));
    assert_eq!((config.vocab, config.max_context, config.tied), (262_208, 131_072, true));
    assert_eq!(config.layers[4], Layer { window: Some(1024), rope: 1 });
    assert_eq!(config.layers[5], Layer { window: None, rope: 0 });
    assert_eq!((config.ropes[0].theta, &config.ropes[0].scaling), (1e6, &Scaling::Linear { factor: 8.0 }));
    assert_eq!((config.ropes[1].theta, &config.ropes[1].scaling), (1e4, &Scaling::None));
}

#[test]
fn scaled_rotation_stretches_the_context() {
    let of = |name| parse(&fixture(name, "config.json")).max_context;
    assert_eq!(of("llama-rope-dynamic"), 24 * 4);
    assert_eq!(of("llama-rope-yarn"), 32 * 4);
    assert_eq!(of("llama-rope-llama3"), 128);
}
