//! Mistral: a Llama whose layers all slide, where the configuration gives a window.

use super::{Config, base, fields::Fields, set_windows, sliding_layers, window};
use crate::error::Error;

pub(super) fn read(f: &Fields) -> Result<Config, Error> {
    let mut config = base("mistral", f)?;
    let sliding = sliding_layers(f, config.layers.len(), |_| true)?;
    set_windows(&mut config, &sliding, window(f)?);
    Ok(config)
}
