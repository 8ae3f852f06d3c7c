//! Reading small files of a model directory without trusting them.
use crate::TextError;
use std::{fs::File, io::Read, path::Path};

/// The largest tokenizer file read: the biggest published vocabularies take about 35 MB.
const MAX_BYTES: u64 = 256 << 20;

/// The bytes of a regular file, or `None` where it does not exist. A pipe, device or directory is an error,
/// so that opening it can never hang.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, TextError> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(TextError::file(path, e)),
    };
    if !metadata.is_file() {
        return Err(TextError::file(path, "is not a regular file"));
    }
    if metadata.len() > MAX_BYTES {
        return Err(TextError::file(path, format!("is larger than {} MiB", MAX_BYTES >> 20)));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    File::open(path)
        .and_then(|f| f.take(MAX_BYTES).read_to_end(&mut bytes))
        .map_err(|e| TextError::file(path, e))?;
    Ok(Some(bytes))
}

/// A JSON file, or `None` where it does not exist.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, TextError> {
    match read(path)? {
        None => Ok(None),
        Some(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| TextError::file(path, e)),
    }
}
