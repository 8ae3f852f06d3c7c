//! Qwen 2 and 2.5: biases on query, key and value; windows on upper layers only if asked.

use super::{Bias, Config, base, fields::Fields, set_windows, sliding_layers, window};
use crate::error::Error;

pub(super) fn read(f: &Fields) -> Result<Config, Error> {
    let bias = Bias { qkv: true, ..Bias::default() };
    with_windows(f, Config { bias, ..base("qwen2", f)? })
}

/// Layers from `max_window_layers` on slide, if `use_sliding_window`.
pub(super) fn with_windows(f: &Fields, mut config: Config) -> Result<Config, Error> {
    if !f.flag("use_sliding_window", false)? {
        return Ok(config);
    }
    let first = f.count_opt("max_window_layers", 0..=1024)?.unwrap_or(28);
    let sliding = sliding_layers(f, config.layers.len(), |layer| layer >= first)?;
    set_windows(&mut config, &sliding, window(f)?);
    Ok(config)
}
