//! `config.json` of a Hugging Face model directory, read into what the decoder needs.
//!
//! Both spellings are understood: `rope_theta` + `rope_scaling` as published checkpoints have them,
//! and `rope_parameters` as transformers 5 writes them. Defaults for missing keys are those of the
//! configuration classes of transformers. Every number is range-checked; errors name the key.

mod fields;
mod gemma2;
mod gemma3;
mod llama;
mod mistral;
mod phi3;
mod qwen2;
mod qwen3;
mod rope;

use serde_json::Value;

use crate::device::{Activation, Heads};
use crate::error::Error;
use fields::Fields;

pub use rope::{RopeConfig, Scaling};

const MAX_BYTES: usize = 4 << 20;

/// One transformer, whatever its architecture is called.
#[derive(Clone, Debug)]
pub struct Config {
    /// `model_type`: "llama", "gemma3", …
    pub arch: &'static str,
    pub vocab: usize,
    pub hidden: usize,
    /// Of the whole model.
    pub heads: Heads,
    pub layers: Vec<Layer>,
    pub mlp: Mlp,
    pub eps: f32,
    /// Positions the model was made for.
    pub max_context: usize,
    /// Rotations that layers refer to.
    pub ropes: Vec<RopeConfig>,
    /// The output layer is the embedding table.
    pub tied: bool,
    pub bias: Bias,
    /// Query and key heads are normalised before rotation.
    pub qk_norm: bool,
    /// The outputs of attention and MLP are normalised too (Gemma).
    pub post_norms: bool,
    /// Added to every stored norm weight: 1 where a checkpoint stores `weight - 1` (Gemma).
    pub norm_offset: f32,
    pub embed_scale: f32,
    /// Multiplies query·key.
    pub attention_scale: f32,
    /// Of attention scores.
    pub softcap: Option<f32>,
    /// Of the output logits.
    pub final_softcap: Option<f32>,
    /// The checkpoint stores `qkv_proj` and `gate_up_proj` (Phi 3).
    pub fused: bool,
}

/// What differs from layer to layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// A query sees itself and `window - 1` tokens before it.
    pub window: Option<usize>,
    /// Index into `Config::ropes`.
    pub rope: usize,
}

/// Kinds of feed-forward layers. Mixture-of-experts becomes a second variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mlp {
    /// `down(activation(gate(x)) * up(x))`
    Gated { intermediate: usize, activation: Activation },
}

/// Which linear layers have a bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bias {
    pub qkv: bool,
    pub output: bool,
    pub mlp: bool,
}

impl Config {
    /// Reads the bytes of a `config.json`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_BYTES {
            return Err(Error::Invalid(format!("config.json: larger than {MAX_BYTES} bytes")));
        }
        let json = serde_json::from_slice(bytes)
            .map_err(|e| Error::Invalid(format!("config.json: not valid JSON: {e}")))?;
        let Value::Object(map) = json else {
            return Err(Error::Invalid("config.json: not a JSON object".into()));
        };
        let fields = Fields::new(map, "config.json");
        if fields.has("quantization_config") {
            return Err(Error::Unsupported(
                "config.json: quantization_config: quantized weights are not supported yet".into(),
            ));
        }
        let arch = fields.text("model_type")?.ok_or_else(|| fields.error("model_type", "is missing"))?;
        let config = match arch {
            "llama" => llama::read(&fields),
            "mistral" => mistral::read(&fields),
            "qwen2" => qwen2::read(&fields),
            "qwen3" => qwen3::read(&fields),
            "gemma2" => gemma2::read(&fields),
            "gemma3_text" => gemma3::read(fields),
            // A multimodal checkpoint: its text model stands in `text_config`.
            "gemma3" => gemma3::read(fields.object("text_config")?.unwrap_or(fields)),
            "phi3" => phi3::read(&fields),
            other if fields.has("num_local_experts") || fields.has("num_experts") => {
                Err(Error::Unsupported(format!(
                    "config.json: model_type {other:?} is a mixture of experts, which is not supported yet"
                )))
            }
            other => Err(Error::Unsupported(format!(
                "config.json: model_type {other:?} is not supported; supported are llama, mistral, qwen2, qwen3, gemma2, gemma3, phi3"
            ))),
        }?;
        config.check()
    }

    /// Relations between numbers that were each in range.
    fn check(self) -> Result<Self, Error> {
        let invalid = |text: String| Err(Error::Invalid(format!("config.json: {text}")));
        let Heads { query, kv, dim } = self.heads;
        if query % kv != 0 {
            return invalid(format!(
                "num_attention_heads {query} is not a multiple of num_key_value_heads {kv}"
            ));
        }
        if query * dim > 1 << 20 {
            return invalid(format!("num_attention_heads {query} x head_dim {dim} is too large"));
        }
        Ok(self)
    }
}

/// The common part: a Llama without biases. Architectures change what differs.
fn base(arch: &'static str, f: &Fields) -> Result<Config, Error> {
    let hidden = f.count("hidden_size", 1..=1 << 17)?;
    let query = f.count("num_attention_heads", 1..=4096)?;
    let kv = f.count_opt("num_key_value_heads", 1..=4096)?.unwrap_or(query);
    let dim = match f.count_opt("head_dim", 1..=1024)? {
        Some(dim) => dim,
        None if hidden % query == 0 && hidden / query <= 1024 => hidden / query,
        None => {
            return Err(f.error(
                "hidden_size",
                format!("{hidden} is not num_attention_heads {query} times a head of at most 1024"),
            ));
        }
    };
    let layers = f.count("num_hidden_layers", 1..=1024)?;
    let intermediate = f.count("intermediate_size", 1..=1 << 20)?;
    let rope = RopeConfig::read(f, dim)?;
    Ok(Config {
        arch,
        vocab: f.count("vocab_size", 1..=1 << 22)?,
        hidden,
        heads: Heads { query, kv, dim },
        layers: vec![Layer { window: None, rope: 0 }; layers],
        mlp: Mlp::Gated { intermediate, activation: activation(f, "hidden_act", Activation::Silu)? },
        eps: f.float_opt("rms_norm_eps", 0.0..=1.0)?.unwrap_or(1e-6) as f32,
        max_context: rope.max_context,
        ropes: vec![rope],
        tied: f.flag("tie_word_embeddings", false)?,
        bias: Bias::default(),
        qk_norm: false,
        post_norms: false,
        norm_offset: 0.0,
        embed_scale: 1.0,
        attention_scale: (1.0 / (dim as f64).sqrt()) as f32,
        softcap: None,
        final_softcap: None,
        fused: false,
    })
}

fn activation(f: &Fields, key: &str, default: Activation) -> Result<Activation, Error> {
    match f.text(key)? {
        None => Ok(default),
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu_pytorch_tanh" | "gelu_new") => Ok(Activation::GeluTanh),
        Some("gelu") => Ok(Activation::Gelu),
        Some(other) => Err(Error::Unsupported(format!("config.json: {key} {other:?} is not supported"))),
    }
}

/// Whether each of `count` layers slides: `layer_types` where given, else `default` by layer index.
fn sliding_layers(f: &Fields, count: usize, default: impl Fn(usize) -> bool) -> Result<Vec<bool>, Error> {
    let Some(types) = f.texts("layer_types")? else { return Ok((0..count).map(default).collect()) };
    if types.len() != count {
        return Err(f.error("layer_types", format!("has {} entries for {count} layers", types.len())));
    }
    types
        .iter()
        .map(|kind| match *kind {
            "sliding_attention" => Ok(true),
            "full_attention" => Ok(false),
            other => Err(Error::Unsupported(format!("config.json: layer_types {other:?} is not supported"))),
        })
        .collect()
}

/// Gives sliding layers their window; without a window nothing slides.
fn set_windows(config: &mut Config, sliding: &[bool], window: Option<usize>) {
    for (layer, slides) in config.layers.iter_mut().zip(sliding) {
        layer.window = window.filter(|_| *slides);
    }
}

/// `sliding_window`: null or 0 mean no window.
fn window(f: &Fields) -> Result<Option<usize>, Error> {
    Ok(f.count_opt("sliding_window", 0..=1 << 24)?.filter(|w| *w > 0))
}
