//! Shapes of models.

use serde_json::{Value, json};

#[derive(Clone, Copy)]
pub(crate) struct Geometry {
    pub(crate) name: &'static str,
    pub(crate) hidden: usize,
    pub(crate) intermediate: usize,
    pub(crate) layers: usize,
    pub(crate) query_heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) dim: usize,
    pub(crate) vocab: usize,
    pub(crate) tied: bool,
}

/// Llama 3.1 8B.
pub(crate) const B8: Geometry = Geometry {
    name: "8b",
    hidden: 4096,
    intermediate: 14336,
    layers: 32,
    query_heads: 32,
    kv_heads: 8,
    dim: 128,
    vocab: 128_256,
    tied: false,
};

/// Llama 3.2 1B.
pub(crate) const B1: Geometry = Geometry {
    name: "1b",
    hidden: 2048,
    intermediate: 8192,
    layers: 16,
    query_heads: 32,
    kv_heads: 8,
    dim: 64,
    vocab: 128_256,
    tied: true,
};

/// For the emulator.
#[cfg(test)]
pub(crate) const TINY: Geometry = Geometry {
    name: "tiny",
    hidden: 64,
    intermediate: 128,
    layers: 2,
    query_heads: 4,
    kv_heads: 2,
    dim: 64,
    vocab: 96,
    tied: false,
};

impl Geometry {
    /// Columns of the fused query, key and value.
    pub(crate) fn qkv(&self) -> usize {
        (self.query_heads + 2 * self.kv_heads) * self.dim
    }

    /// `config.json`
    pub(crate) fn config(&self) -> Value {
        json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
            "hidden_size": self.hidden, "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers, "num_attention_heads": self.query_heads,
            "num_key_value_heads": self.kv_heads, "head_dim": self.dim, "vocab_size": self.vocab,
            "tie_word_embeddings": self.tied, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0,
            "max_position_embeddings": 8192,
        })
    }

    /// Names and shapes of all tensors; norms have one length.
    pub(crate) fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (hidden, query, kv) = (self.hidden, self.query_heads * self.dim, self.kv_heads * self.dim);
        let of_layer = [
            ("input_layernorm", vec![hidden]),
            ("self_attn.q_proj", vec![query, hidden]),
            ("self_attn.k_proj", vec![kv, hidden]),
            ("self_attn.v_proj", vec![kv, hidden]),
            ("self_attn.o_proj", vec![hidden, query]),
            ("post_attention_layernorm", vec![hidden]),
            ("mlp.gate_proj", vec![self.intermediate, hidden]),
            ("mlp.up_proj", vec![self.intermediate, hidden]),
            ("mlp.down_proj", vec![hidden, self.intermediate]),
        ];
        let mut all = vec![
            ("model.embed_tokens.weight".to_owned(), vec![self.vocab, hidden]),
            ("model.norm.weight".to_owned(), vec![hidden]),
        ];
        for layer in 0..self.layers {
            let full = |(name, shape): &(&str, _)| {
                (format!("model.layers.{layer}.{name}.weight"), Vec::clone(shape))
            };
            all.extend(of_layer.iter().map(full));
        }
        if !self.tied {
            all.push(("lm_head.weight".to_owned(), vec![self.vocab, hidden]));
        }
        all
    }
}
