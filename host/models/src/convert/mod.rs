//! A GGUF file becomes a Hugging Face style directory.
mod config;
mod sentencepiece;
mod tensors;
mod tokenizer;

use crate::{Dtype, ModelsError, OnEvent, gguf::Gguf, weights};
use std::path::Path;

/// Writes config.json, generation_config.json, tokenizer.json, tokenizer_config.json and model.safetensors (in
/// `dtype`) into an existing empty folder.
pub(crate) fn gguf_to_folder(
    file: &[u8],
    dtype: Dtype,
    folder: &Path,
    on_event: &mut OnEvent<'_>,
) -> Result<(), ModelsError> {
    let bad = |e: String| ModelsError::file(Path::new("GGUF"), e);
    let gguf = Gguf::parse(file).map_err(bad)?;
    let architecture = config::Architecture::of(&gguf).map_err(bad)?;
    let config = config::config_json(&gguf, &architecture, dtype).map_err(bad)?;
    let text = tokenizer::files(&gguf).map_err(bad)?;
    weights::write_json(&folder.join("config.json"), &config)?;
    weights::write_json(&folder.join("generation_config.json"), &config::generation_json(&gguf))?;
    weights::write_json(&folder.join("tokenizer.json"), &text.tokenizer)?;
    weights::write_json(&folder.join("tokenizer_config.json"), &text.config)?;
    tensors::write(&gguf, &architecture, dtype, &folder.join("model.safetensors"), on_event)
}
