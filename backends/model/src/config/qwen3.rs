//! Qwen 3: query and key heads are normalised; no biases unless asked.

use super::{Bias, Config, base, fields::Fields, qwen2};
use crate::error::Error;

pub(super) fn read(f: &Fields) -> Result<Config, Error> {
    let attention = f.flag("attention_bias", false)?;
    let bias = Bias { qkv: attention, output: attention, mlp: false };
    qwen2::with_windows(f, Config { bias, qk_norm: true, ..base("qwen3", f)? })
}
