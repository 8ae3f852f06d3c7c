//! Phi 3 and 4: fused weights, partial rotation, longrope.

use super::{Config, base, fields::Fields, set_windows, sliding_layers, window};
use crate::error::Error;

pub(super) fn read(f: &Fields) -> Result<Config, Error> {
    let mut config = Config { fused: true, ..base("phi3", f)? };
    let sliding = sliding_layers(f, config.layers.len(), |_| true)?;
    set_windows(&mut config, &sliding, window(f)?);
    Ok(config)
}
