//! tokenizer.json and tokenizer_config.json from GGUF's vocabulary and merges.
use crate::gguf::{Gguf, Value};
use serde_json::{Map, Value as Json, json};

/// GGUF's token types: control tokens are special, user-defined ones are only never split.
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;

pub(super) struct Files {
    pub(super) tokenizer: Json,
    pub(super) config: Json,
}

pub(super) fn files(gguf: &Gguf<'_>) -> Result<Files, String> {
    let model = gguf.need("tokenizer.ggml.model", Value::str)?;
    let pre = gguf.need("tokenizer.ggml.pre", Value::str)?;
    if (model, pre) != ("gpt2", "smollm") {
        return Err(format!("tokenizer {model:?} with pre-tokenizer {pre:?} cannot be converted"));
    }
    let tokens = gguf.need("tokenizer.ggml.tokens", Value::strings)?;
    let merges = gguf.need("tokenizer.ggml.merges", Value::strings)?;
    let pairs: Option<Vec<(&str, &str)>> = merges.iter().map(|merge| merge.split_once(' ')).collect();
    let pairs = pairs.ok_or("tokenizer.ggml.merges: a merge is not two tokens")?;
    let vocab: Map<String, Json> =
        tokens.iter().zip(0u32..).map(|(t, id)| (t.to_string(), id.into())).collect();
    if vocab.len() != tokens.len() {
        return Err("tokenizer.ggml.tokens: a token is there twice".into());
    }
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(gguf, &tokens)?,
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, byte_level]},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": pairs,
        },
    });
    Ok(Files { tokenizer, config: config(gguf, &tokens) })
}

fn added_tokens(gguf: &Gguf<'_>, tokens: &[&str]) -> Result<Vec<Json>, String> {
    let types = gguf.need("tokenizer.ggml.token_type", Value::array)?;
    if types.len() != tokens.len() {
        return Err(format!("tokenizer.ggml.token_type: {} types for {} tokens", types.len(), tokens.len()));
    }
    let added = types.iter().zip(tokens).enumerate().filter_map(|(id, (kind, content))| {
        let special = match kind.u64()? {
            CONTROL => true,
            USER_DEFINED => false,
            _ => return None,
        };
        Some(json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": special}))
    });
    Ok(added.collect())
}

fn config(gguf: &Gguf<'_>, tokens: &[&str]) -> Json {
    let mut config = Map::new();
    config.insert("tokenizer_class".into(), "GPT2Tokenizer".into());
    for (name, key) in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")] {
        let id = gguf.key(&format!("tokenizer.ggml.{key}_token_id")).and_then(Value::u64);
        if let Some(token) = id.and_then(|id| tokens.get(id as usize)) {
            config.insert(format!("{name}_token"), (*token).into());
        }
    }
    config.insert("clean_up_tokenization_spaces".into(), false.into());
    config.insert(
        "add_bos_token".into(),
        gguf.key("tokenizer.ggml.add_bos_token").and_then(Value::bool).unwrap_or(false).into(),
    );
    if let Some(length) = gguf.key("llama.context_length").and_then(Value::u64) {
        config.insert("model_max_length".into(), length.into());
    }
    if let Some(template) = gguf.key("tokenizer.chat_template").and_then(Value::str) {
        config.insert("chat_template".into(), template.into());
    }
    Json::Object(config)
}
