//! tokenizer.json and tokenizer_config.json from GGUF's vocabulary and merges.
use super::sentencepiece;
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
    let tokens = gguf.need("tokenizer.ggml.tokens", Value::strings)?;
    let vocab: Map<String, Json> =
        tokens.iter().zip(0u32..).map(|(t, id)| (t.to_string(), id.into())).collect();
    if vocab.len() != tokens.len() {
        return Err("tokenizer.ggml.tokens: a token is there twice".into());
    }
    let added = added_tokens(gguf, &tokens)?;
    let parts = match (model, pre) {
        ("gpt2", "smollm") => byte_level(gguf)?,
        ("llama", "default") => sentencepiece::parts(gguf, &tokens)?,
        _ => return Err(format!("tokenizer {model:?} with pre-tokenizer {pre:?} cannot be converted")),
    };
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": parts.normalizer,
        "pre_tokenizer": parts.pre_tokenizer,
        "post_processor": parts.post_processor,
        "decoder": parts.decoder,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": parts.unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": parts.unknown.is_some(), "byte_fallback": parts.unknown.is_some(),
            "ignore_merges": false, "vocab": vocab, "merges": parts.merges,
        },
    });
    Ok(Files { tokenizer, config: config(gguf, &tokens) })
}

/// What differs between kinds of tokenizers.
pub(super) struct Parts<'a> {
    pub(super) normalizer: Json,
    pub(super) pre_tokenizer: Json,
    pub(super) post_processor: Json,
    pub(super) decoder: Json,
    /// The token for what has none, where bytes can stand in for it first.
    pub(super) unknown: Option<&'a str>,
    pub(super) merges: Vec<(&'a str, &'a str)>,
}

fn byte_level<'a>(gguf: &Gguf<'a>) -> Result<Parts<'a>, String> {
    let merges = gguf.need("tokenizer.ggml.merges", Value::strings)?;
    let pairs: Option<Vec<(&str, &str)>> = merges.iter().map(|merge| merge.split_once(' ')).collect();
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    Ok(Parts {
        normalizer: Json::Null,
        pre_tokenizer: json!({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, byte_level]}),
        post_processor: Json::Null,
        decoder: json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        unknown: None,
        merges: pairs.ok_or("tokenizer.ggml.merges: a merge is not two tokens")?,
    })
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
    let class = match gguf.key("tokenizer.ggml.model").and_then(Value::str) {
        Some("gpt2") => "GPT2Tokenizer",
        _ => "PreTrainedTokenizerFast",
    };
    config.insert("tokenizer_class".into(), class.into());
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
    let name = gguf.key("general.architecture").and_then(Value::str).unwrap_or_default();
    if let Some(length) = gguf.key(&format!("{name}.context_length")).and_then(Value::u64) {
        config.insert("model_max_length".into(), length.into());
    }
    if let Some(template) = gguf.key("tokenizer.chat_template").and_then(Value::str) {
        config.insert("chat_template".into(), template.into());
    }
    Json::Object(config)
}
