//! config.json: the sizes every architecture needs are there, are numbers, and are sane.
use super::safe_open::read_small;
use crate::ModelsError;
use serde_json::{Map, Value};
use std::path::Path;

const MAX_CONFIG: u64 = 4 << 20;

/// What other checks need of config.json.
pub(super) struct Sizes {
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
}

pub(super) fn check(dir: &Path, notes: &mut Vec<String>) -> Result<Sizes, ModelsError> {
    let path = dir.join("config.json");
    let bytes = read_small(dir, &path, MAX_CONFIG)?;
    let bad = |e: String| ModelsError::file(&path, e);
    let config: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
    if config.contains_key("auto_map") {
        notes.push("auto_map in config.json is ignored: code that comes with a model is never run".into());
    }
    sizes(&config).map_err(bad)
}

fn sizes(config: &Map<String, Value>) -> Result<Sizes, String> {
    if !config.get("model_type").is_some_and(Value::is_string) {
        return Err("model_type is missing or not a string".into());
    }
    // Models that also see or hear keep the language model's sizes in a part of their own.
    let text = match config.get("text_config") {
        None => config,
        Some(part) => part.as_object().ok_or("text_config is not an object")?,
    };
    let vocab_size = need(text, "vocab_size", 1 << 24)?;
    let hidden_size = need(text, "hidden_size", 1 << 20)?;
    need(text, "num_hidden_layers", 10_000)?;
    let heads = need(text, "num_attention_heads", 1 << 16)?;
    let kv_heads = may(text, "num_key_value_heads", 1 << 16)?.unwrap_or(heads);
    if heads % kv_heads != 0 {
        return Err(format!("num_key_value_heads {kv_heads} does not divide num_attention_heads {heads}"));
    }
    if may(text, "head_dim", 1 << 14)?.is_none() && hidden_size % heads != 0 {
        return Err(format!("num_attention_heads {heads} does not divide hidden_size {hidden_size}"));
    }
    may(text, "intermediate_size", 1 << 24)?;
    may(text, "max_position_embeddings", 1 << 30)?;
    for key in ["rms_norm_eps", "rope_theta"] {
        positive(text, key)?;
    }
    Ok(Sizes { vocab_size, hidden_size })
}

fn need(config: &Map<String, Value>, key: &str, max: usize) -> Result<usize, String> {
    may(config, key, max)?.ok_or_else(|| format!("{key} is missing"))
}

fn may(config: &Map<String, Value>, key: &str, max: usize) -> Result<Option<usize>, String> {
    match config.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(n) if (1..=max as u64).contains(&n) => Ok(Some(n as usize)),
            _ => Err(format!("{key} is {value}, not a whole number from 1 to {max}")),
        },
    }
}

fn positive(config: &Map<String, Value>, key: &str) -> Result<(), String> {
    match config.get(key) {
        None | Some(Value::Null) => Ok(()),
        Some(value) if value.as_f64().is_some_and(|x| x > 0.0 && x.is_finite()) => Ok(()),
        Some(value) => Err(format!("{key} is {value}, not a positive number")),
    }
}
