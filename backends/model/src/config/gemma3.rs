//! Gemma 3 (text): Gemma 2 with normalised heads, and five sliding layers, which rotate with a base
//! of their own, to one full layer.

use serde_json::json;

use super::{Config, RopeConfig, fields::Fields, gemma2::gemma, set_windows, sliding_layers, window};
use crate::error::Error;

pub(super) fn read(fields: Fields) -> Result<Config, Error> {
    // Published multimodal checkpoints leave out what equals these.
    let f = &fields.or_defaults(json!({
        "vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
        "max_position_embeddings": 131_072, "sliding_window": 4096,
    }));
    if f.flag("use_bidirectional_attention", false)? {
        return Err(Error::Unsupported("config.json: use_bidirectional_attention is not supported".into()));
    }
    let mut config = gemma("gemma3", f)?;
    config.qk_norm = true;
    let pattern = match f.count_opt("sliding_window_pattern", 1..=1024)? {
        Some(pattern) => pattern,
        None => f.count_opt("_sliding_window_pattern", 1..=1024)?.unwrap_or(6),
    };
    let sliding = sliding_layers(f, config.layers.len(), |layer| (layer + 1) % pattern != 0)?;
    set_windows(&mut config, &sliding, window(f)?);
    // Published checkpoints already state the extended context.
    config.max_context = f.count("max_position_embeddings", 1..=1 << 24)?;
    config.ropes = vec![
        RopeConfig::for_layers(f, config.heads.dim, "full_attention", None)?,
        RopeConfig::for_layers(f, config.heads.dim, "sliding_attention", Some("rope_local_base_freq"))?,
    ];
    for (layer, slides) in config.layers.iter_mut().zip(&sliding) {
        layer.rope = usize::from(*slides);
    }
    Ok(config)
}
