//! The tensors of a model: one safetensors file, or shards with an index.

use std::collections::HashMap;

use serde::Deserialize;

use crate::device::{Dtype, Matrix};
use crate::error::Error;
use crate::matrix;
use crate::safetensors::{Entry, entries};
use crate::source::Source;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const MAX_INDEX: usize = 32 << 20;

/// Checked headers and the bytes behind them.
pub struct Weights<B> {
    files: Vec<B>,
    tensors: HashMap<String, (usize, Entry)>,
    bytes: u64,
}

#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

impl<B: AsRef<[u8]>> Weights<B> {
    /// Opens the single file, or every shard that the index names.
    pub fn open(source: &impl Source<Bytes = B>) -> Result<Self, Error> {
        let mut weights = Self { files: Vec::new(), tensors: HashMap::new(), bytes: 0 };
        if let Some(file) = source.read(SINGLE)? {
            weights.add(SINGLE, file)?;
            return Ok(weights);
        }
        let Some(index) = source.read(INDEX)? else {
            return Err(Error::Invalid(format!("the model directory has neither {SINGLE} nor {INDEX}")));
        };
        let index = parse_index(index.as_ref())?;
        let mut shards: Vec<&String> = index.weight_map.values().collect();
        shards.sort();
        shards.dedup();
        for shard in shards {
            check_file_name(shard)?;
            let file = source
                .read(shard)?
                .ok_or_else(|| Error::Invalid(format!("{INDEX}: shard {shard} is missing")))?;
            weights.add(shard, file)?;
        }
        for name in index.weight_map.keys() {
            if !weights.tensors.contains_key(name) {
                return Err(Error::Invalid(format!("{INDEX}: {name} is in no shard")));
            }
        }
        Ok(weights)
    }

    fn add(&mut self, name: &str, file: B) -> Result<(), Error> {
        for entry in entries(name, file.as_ref())? {
            self.bytes += entry.range.len() as u64;
            if let Some((_, twice)) = self.tensors.insert(entry.name.clone(), (self.files.len(), entry)) {
                return Err(Error::Invalid(format!("{name}: {} is in another shard too", twice.name)));
            }
        }
        self.files.push(file);
        Ok(())
    }

    /// Of all tensors.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A matrix `[rows, cols]`; another shape or element type is an error.
    pub fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix<'_>, Error> {
        let (dtype, bytes) = self.tensor(name, &[rows, cols])?;
        Ok(Matrix { dtype, rows, cols, stride: cols, bytes })
    }

    /// A vector of `len` numbers, as f32.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, Error> {
        let (dtype, bytes) = self.tensor(name, &[len])?;
        Ok(bytes.chunks_exact(dtype.size()).map(|element| matrix::read(dtype, element)).collect())
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<(Dtype, &[u8]), Error> {
        let (file, entry) =
            self.tensors.get(name).ok_or_else(|| Error::Invalid(format!("tensor {name} is missing")))?;
        if entry.shape != shape {
            return Err(Error::Invalid(format!(
                "tensor {name} has shape {:?}; the configuration asks for {shape:?}",
                entry.shape
            )));
        }
        let dtype = match entry.dtype {
            safetensors::Dtype::F32 => Dtype::F32,
            safetensors::Dtype::F16 => Dtype::F16,
            safetensors::Dtype::BF16 => Dtype::Bf16,
            other => return Err(Error::Unsupported(format!("tensor {name} has element type {other}"))),
        };
        let bytes = self.files.get(*file).and_then(|file| file.as_ref().get(entry.range.clone()));
        // The header was checked against the file; only a file cut short since then fails here.
        bytes
            .map(|bytes| (dtype, bytes))
            .ok_or_else(|| Error::Invalid(format!("tensor {name} lies beyond its file")))
    }
}

fn parse_index(bytes: &[u8]) -> Result<Index, Error> {
    if bytes.len() > MAX_INDEX {
        return Err(Error::Invalid(format!("{INDEX}: larger than {MAX_INDEX} bytes")));
    }
    serde_json::from_slice(bytes).map_err(|e| Error::Invalid(format!("{INDEX}: {e}")))
}

/// Shards lie beside the index: no directory part.
fn check_file_name(name: &str) -> Result<(), Error> {
    let plain = name.ends_with(".safetensors") && !name.starts_with('.');
    if plain && !name.contains(['/', '\\', '\0', ':']) {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "{INDEX}: {name:?} is not the name of a safetensors file in the model directory"
    )))
}
