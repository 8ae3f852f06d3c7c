//! Llama 1 to 3, SmolLM2 and everything else published as `LlamaForCausalLM`.

use super::{Bias, Config, base, fields::Fields};
use crate::error::Error;

pub(super) fn read(f: &Fields) -> Result<Config, Error> {
    let attention = f.flag("attention_bias", false)?;
    let bias = Bias { qkv: attention, output: attention, mlp: f.flag("mlp_bias", false)? };
    Ok(Config { bias, ..base("llama", f)? })
}
