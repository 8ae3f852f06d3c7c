//! Gemma 2: scaled embeddings, norms around both branches, soft caps, every second layer slides.

use super::{Bias, Config, Mlp, activation, base, fields::Fields, set_windows, sliding_layers, window};
use crate::device::Activation;
use crate::error::Error;

pub(super) fn read(f: &Fields) -> Result<Config, Error> {
    let mut config = gemma("gemma2", f)?;
    let sliding = sliding_layers(f, config.layers.len(), |layer| layer % 2 == 0)?;
    set_windows(&mut config, &sliding, window(f)?.or(Some(4096).filter(|_| !f.has("sliding_window"))));
    Ok(config)
}

/// What Gemma 2 and 3 share.
pub(super) fn gemma(arch: &'static str, f: &Fields) -> Result<Config, Error> {
    let mut config = base(arch, f)?;
    let attention = f.flag("attention_bias", false)?;
    config.bias = Bias { qkv: attention, output: attention, mlp: false };
    config.tied = f.flag("tie_word_embeddings", true)?;
    config.post_norms = true;
    config.norm_offset = 1.0;
    config.embed_scale = (config.hidden as f64).sqrt() as f32;
    let scalar = f.float_opt("query_pre_attn_scalar", 1e-6..=1e9)?.unwrap_or(256.0);
    config.attention_scale = (1.0 / scalar.sqrt()) as f32;
    config.softcap = f.float_opt("attn_logit_softcapping", 1e-6..=1e9)?.map(|cap| cap as f32);
    config.final_softcap = f.float_opt("final_logit_softcapping", 1e-6..=1e9)?.map(|cap| cap as f32);
    let Mlp::Gated { intermediate, .. } = config.mlp;
    let activation = activation(f, "hidden_activation", Activation::GeluTanh)?;
    config.mlp = Mlp::Gated { intermediate, activation };
    Ok(config)
}
