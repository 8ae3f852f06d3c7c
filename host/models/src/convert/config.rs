//! config.json and generation_config.json from GGUF's keys.
use crate::{
    Dtype,
    gguf::{Gguf, Value},
};
use serde_json::{Map, Value as Json, json};

/// What conversion needs to know about the model.
pub(super) struct Architecture {
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) hidden: usize,
    pub(super) feed_forward: usize,
    pub(super) vocab: usize,
}

impl Architecture {
    pub(super) fn of(gguf: &Gguf<'_>) -> Result<Self, String> {
        let name = gguf.need("general.architecture", Value::str)?;
        if name != "llama" {
            return Err(format!("general.architecture {name:?} cannot be converted (llama can)"));
        }
        let size = |key: &str, max: u64| {
            let value = gguf.need(key, Value::u64)?;
            let fits = (1..=max).contains(&value);
            if fits {
                Ok(value as usize)
            } else {
                Err(format!("key {key} is {value}, not within 1 to {max}"))
            }
        };
        let hidden = size("llama.embedding_length", 1 << 20)?;
        let heads = size("llama.attention.head_count", 1 << 16)?;
        let kv_heads = match gguf.key("llama.attention.head_count_kv") {
            Some(_) => size("llama.attention.head_count_kv", 1 << 16)?,
            None => heads,
        };
        let head_dim = match gguf.key("llama.attention.key_length") {
            Some(_) => size("llama.attention.key_length", 1 << 16)?,
            None if hidden % heads == 0 => hidden / heads,
            None => return Err(format!("embedding length {hidden} is not divisible by {heads} heads")),
        };
        if heads % kv_heads != 0 || head_dim % 2 != 0 {
            return Err(format!("{heads} heads, {kv_heads} KV heads of {head_dim}: not a usable shape"));
        }
        let tokens = gguf.need("tokenizer.ggml.tokens", Value::array)?.len();
        Ok(Architecture {
            layers: size("llama.block_count", 10_000)?,
            heads,
            kv_heads,
            head_dim,
            hidden,
            feed_forward: size("llama.feed_forward_length", 1 << 24)?,
            vocab: tokens,
        })
    }
}

pub(super) fn config_json(gguf: &Gguf<'_>, a: &Architecture, dtype: Dtype) -> Result<Json, String> {
    if gguf.key("llama.rope.scaling.type").is_some_and(|v| v.str() != Some("none")) {
        return Err("key llama.rope.scaling.type: scaled RoPE cannot be converted".into());
    }
    let theta = gguf.key("llama.rope.freq_base").and_then(Value::f64).unwrap_or(10_000.0);
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": dtype.torch(),
        "vocab_size": a.vocab,
        "hidden_size": a.hidden,
        "intermediate_size": a.feed_forward,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads,
        "head_dim": a.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": gguf.need("llama.context_length", Value::u64)?,
        "rms_norm_eps": gguf.need("llama.attention.layer_norm_rms_epsilon", Value::f64)?,
        "rope_theta": theta,
        "rope_scaling": null,
        "tie_word_embeddings": !gguf.tensors.iter().any(|t| t.name == "output.weight"),
        "attention_bias": false,
        "mlp_bias": false,
    });
    if let Some(config) = config.as_object_mut() {
        config.extend(token_ids(gguf));
    }
    Ok(config)
}

pub(super) fn generation_json(gguf: &Gguf<'_>) -> Json {
    Json::Object(token_ids(gguf))
}

fn token_ids(gguf: &Gguf<'_>) -> Map<String, Json> {
    let keys = [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")];
    let id = |name| gguf.key(&format!("tokenizer.ggml.{name}_token_id")).and_then(Value::u64);
    keys.into_iter().filter_map(|(key, name)| Some((key.to_string(), id(name)?.into()))).collect()
}
