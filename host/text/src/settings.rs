//! What the files beside tokenizer.json say: special tokens, end tokens, the start token.
use crate::{TextError, file};
use serde_json::{Map, Value};
use std::path::Path;

/// The named special tokens of tokenizer_config.json (`bos_token`, `eos_token`, …) as plain strings, which is
/// also how chat templates see them.
pub(crate) fn special_tokens(dir: &Path) -> Result<Map<String, Value>, TextError> {
    let config: Map<String, Value> = file::read_json(&dir.join("tokenizer_config.json"))?.unwrap_or_default();
    let text = |value: Value| match value {
        Value::String(_) => Some(value),
        Value::Object(mut token) => token.remove("content").filter(Value::is_string),
        _ => None,
    };
    let named = config.into_iter().filter(|(key, _)| key.ends_with("_token"));
    Ok(named.filter_map(|(key, value)| Some((key, text(value)?))).collect())
}

/// End tokens: generation_config.json, else config.json. One id or a list of ids.
pub(crate) fn end_ids(dir: &Path) -> Result<Vec<u32>, TextError> {
    for name in ["generation_config.json", "config.json"] {
        let path = dir.join(name);
        let config: Map<String, Value> = file::read_json(&path)?.unwrap_or_default();
        let ids = match config.get("eos_token_id") {
            None | Some(Value::Null) => continue,
            Some(Value::Array(ids)) => ids.clone(),
            Some(id) => vec![id.clone()],
        };
        let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
        return ids
            .iter()
            .map(|v| {
                id(v).ok_or_else(|| TextError::file(&path, format!("eos_token_id: {v} is not a token id")))
            })
            .collect();
    }
    Ok(Vec::new())
}
