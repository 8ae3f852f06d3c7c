//! Checks a model directory before anything loads it. Headers only: no weight is read.
mod config;
pub(crate) mod header;
mod index;
mod safe_open;

use crate::ModelsError;
use safe_open::exists;
use std::{collections::HashMap, path::Path};

/// What [`check`] has to say about a directory that may be used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Lines worth logging: what is in the directory but will not be used, and why.
    pub notes: Vec<String>,
    /// Tensors in all weight files.
    pub tensors: usize,
    /// Bytes of all tensors.
    pub weight_bytes: u64,
}

/// Checks config.json and the headers of the weight files. Fails with the file and the key at fault.
///
/// Nothing is run and nothing outside the directory is read (symbolic links may lead only into the directory, or
/// into the blob store of a Hugging Face cache it belongs to).
pub fn check(dir: &Path) -> Result<Report, ModelsError> {
    let mut report = Report::default();
    let config = config::check(dir, &mut report.notes)?;
    let files = index::weight_files(dir, &mut report.notes)?;
    let mut shapes: HashMap<String, Vec<usize>> = HashMap::new();
    for path in &files.paths {
        safe_open::inside(dir, path)?;
        for tensor in header::read(path)?.tensors {
            report.weight_bytes += tensor.end - tensor.start;
            let name = tensor.name;
            if shapes.insert(name.clone(), tensor.shape).is_some() {
                return Err(ModelsError::file(path, format!("tensor {name} is in two weight files")));
            }
            if shapes.len() > header::MAX_TENSORS {
                return Err(ModelsError::file(path, format!("more than {} tensors", header::MAX_TENSORS)));
            }
        }
    }
    files.all_present(&shapes)?;
    report.tensors = shapes.len();
    let (vocab, hidden) = (config.vocab_size, config.hidden_size);
    if let Some(shape) = shapes.get("model.embed_tokens.weight").filter(|shape| **shape != [vocab, hidden]) {
        let reason = format!(
            "vocab_size {vocab} and hidden_size {hidden} do not fit model.embed_tokens.weight {shape:?}"
        );
        return Err(ModelsError::file(&dir.join("config.json"), reason));
    }
    if exists(&dir.join("tokenizer.json")) {
        safe_open::inside(dir, &dir.join("tokenizer.json"))?;
    }
    Ok(report)
}
