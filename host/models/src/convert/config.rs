//! config.json and generation_config.json from GGUF's keys.
use crate::{
    Dtype,
    gguf::{Gguf, Value},
};
use serde_json::{Map, Value as Json, json};

/// The architectures that can be converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Llama,
    Gemma3,
}

/// What conversion needs to know about the model.
pub(super) struct Architecture {
    pub(super) kind: Kind,
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
        let kind = match name {
            "llama" => Kind::Llama,
            "gemma3" => Kind::Gemma3,
            _ => {
                return Err(format!(
                    "general.architecture {name:?} cannot be converted (llama and gemma3 can)"
                ));
            }
        };
        let size = |key: &str, max: u64| {
            let key = format!("{name}.{key}");
            let value = gguf.need(&key, Value::u64)?;
            let fits = (1..=max).contains(&value);
            if fits {
                Ok(value as usize)
            } else {
                Err(format!("key {key} is {value}, not within 1 to {max}"))
            }
        };
        let has = |key: &str| gguf.key(&format!("{name}.{key}")).is_some();
        let hidden = size("embedding_length", 1 << 20)?;
        let heads = size("attention.head_count", 1 << 16)?;
        let kv_heads = match has("attention.head_count_kv") {
            true => size("attention.head_count_kv", 1 << 16)?,
            false => heads,
        };
        let head_dim = match has("attention.key_length") {
            true => size("attention.key_length", 1 << 16)?,
            false if hidden % heads == 0 => hidden / heads,
            false => return Err(format!("embedding length {hidden} is not divisible by {heads} heads")),
        };
        if heads % kv_heads != 0 || head_dim % 2 != 0 {
            return Err(format!("{heads} heads, {kv_heads} KV heads of {head_dim}: not a usable shape"));
        }
        let tokens = gguf.need("tokenizer.ggml.tokens", Value::array)?.len();
        Ok(Architecture {
            kind,
            layers: size("block_count", 10_000)?,
            heads,
            kv_heads,
            head_dim,
            hidden,
            feed_forward: size("feed_forward_length", 1 << 24)?,
            vocab: tokens,
        })
    }
}

pub(super) fn config_json(gguf: &Gguf<'_>, a: &Architecture, dtype: Dtype) -> Result<Json, String> {
    let name = gguf.need("general.architecture", Value::str)?;
    let key = |key: &str| format!("{name}.{key}");
    if gguf.key(&key("rope.scaling.type")).is_some_and(|v| v.str() != Some("none")) {
        return Err(format!("key {}: scaled RoPE cannot be converted", key("rope.scaling.type")));
    }
    let theta = gguf.key(&key("rope.freq_base")).and_then(Value::f64);
    let mut config = json!({
        "torch_dtype": dtype.torch(),
        "vocab_size": a.vocab,
        "hidden_size": a.hidden,
        "intermediate_size": a.feed_forward,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads,
        "head_dim": a.head_dim,
        "max_position_embeddings": gguf.need(&key("context_length"), Value::u64)?,
        "rms_norm_eps": gguf.need(&key("attention.layer_norm_rms_epsilon"), Value::f64)?,
        "rope_scaling": null,
        "tie_word_embeddings": !gguf.tensors.iter().any(|t| t.name == "output.weight"),
        "attention_bias": false,
    });
    let own = match a.kind {
        Kind::Llama => json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "rope_theta": theta.unwrap_or(10_000.0),
            "mlp_bias": false,
        }),
        // What GGUF leaves out is the same in all sizes; but 27B (62 layers) divides by hidden / heads instead.
        Kind::Gemma3 if a.layers == 62 => return Err("gemma3 of 62 layers cannot be converted".into()),
        Kind::Gemma3 => json!({
            "architectures": ["Gemma3ForCausalLM"],
            "model_type": "gemma3_text",
            "hidden_activation": "gelu_pytorch_tanh",
            "rope_theta": theta.unwrap_or(1e6),
            "rope_local_base_freq": 10_000.0,
            "query_pre_attn_scalar": a.head_dim,
            "sliding_window": gguf.need(&key("attention.sliding_window"), Value::u64)?,
            "sliding_window_pattern": 6,
            "attn_logit_softcapping": null,
            "final_logit_softcapping": null,
        }),
    };
    if let (Some(config), Json::Object(own)) = (config.as_object_mut(), own) {
        config.extend(own);
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
