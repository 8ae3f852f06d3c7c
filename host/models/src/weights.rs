//! Writes safetensors files (<https://huggingface.co/docs/safetensors>): header length as u64, header JSON, data.
//! Data goes out one tensor at a time, so a model need not fit in memory twice.
use crate::{Dtype, Event, ModelsError, OnEvent, check::header};
use serde_json::{Map, Value, json};
use std::{
    fs::{self, File},
    io::{BufWriter, Read, Seek, SeekFrom, Write},
    path::Path,
};

/// One tensor to write: `dtype` as safetensors spells it, `bytes` of row-major data.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: u64,
}

/// Writes a file; `fill(i, buffer)` puts the bytes of entry `i` into an empty buffer.
pub(crate) fn write(
    path: &Path,
    entries: &[Entry],
    phase: &str,
    on_event: &mut OnEvent<'_>,
    mut fill: impl FnMut(usize, &mut Vec<u8>) -> Result<(), ModelsError>,
) -> Result<(), ModelsError> {
    let failed = |e: std::io::Error| ModelsError::cache(path, e);
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).map_err(failed)?);
    let header = header_json(entries);
    out.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
    out.write_all(&header).map_err(failed)?;
    let total = entries.iter().map(|e| e.bytes).sum();
    let (mut done, mut buffer) = (0, Vec::new());
    for (i, entry) in entries.iter().enumerate() {
        buffer.clear();
        fill(i, &mut buffer)?;
        if buffer.len() as u64 != entry.bytes {
            return Err(ModelsError::file(
                path,
                format!("{}: {} bytes, not {}", entry.name, buffer.len(), entry.bytes),
            ));
        }
        out.write_all(&buffer).map_err(failed)?;
        done += entry.bytes;
        on_event(Event::Progress { phase, done, total: Some(total) });
    }
    out.into_inner().map_err(|e| failed(e.into_error()))?.sync_all().map_err(failed)
}

/// The header, padded with spaces so that data begins at a multiple of eight.
fn header_json(entries: &[Entry]) -> Vec<u8> {
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut start = 0;
    for entry in entries {
        let end = start + entry.bytes;
        let value = json!({"dtype": entry.dtype, "shape": entry.shape, "data_offsets": [start, end]});
        header.insert(entry.name.clone(), value);
        start = end;
    }
    let mut bytes = Value::Object(header).to_string().into_bytes();
    bytes.resize(bytes.len().next_multiple_of(8), b' ');
    bytes
}

/// Writes JSON for people to read.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<(), ModelsError> {
    let text = serde_json::to_vec_pretty(value).map_err(|e| ModelsError::cache(path, e))?;
    fs::write(path, text).map_err(|e| ModelsError::cache(path, e))
}

/// Rewrites the weights of a directory whose floating-point tensors are not all `dtype`. Other tensors stay.
pub(crate) fn set_dtype(folder: &Path, dtype: Dtype, on_event: &mut OnEvent<'_>) -> Result<(), ModelsError> {
    let files = fs::read_dir(folder).map_err(|e| ModelsError::cache(folder, e))?.flatten().map(|e| e.path());
    for path in files.filter(|p| p.extension().is_some_and(|e| e == "safetensors")) {
        rewrite(&path, dtype, on_event)?;
    }
    let path = folder.join("config.json");
    let text = fs::read(&path).map_err(|e| ModelsError::file(&path, e))?;
    let mut config: Map<String, Value> =
        serde_json::from_slice(&text).map_err(|e| ModelsError::file(&path, e))?;
    let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    if config.insert(key.into(), dtype.torch().into()) == Some(dtype.torch().into()) {
        return Ok(());
    }
    write_json(&path, &Value::Object(config))
}

fn rewrite(path: &Path, dtype: Dtype, on_event: &mut OnEvent<'_>) -> Result<(), ModelsError> {
    let source = header::read(path)?;
    let float = |name: &str| Dtype::ALL.into_iter().find(|d| d.safetensors() == name);
    if source.tensors.iter().all(|t| float(&t.dtype).is_none_or(|d| d == dtype)) {
        return Ok(());
    }
    let entry = |t: &header::Tensor| match float(&t.dtype) {
        Some(old) => Entry {
            name: t.name.clone(),
            dtype: dtype.safetensors().into(),
            shape: t.shape.clone(),
            bytes: (t.end - t.start) / old.size() as u64 * dtype.size() as u64,
        },
        None => Entry {
            name: t.name.clone(),
            dtype: t.dtype.clone(),
            shape: t.shape.clone(),
            bytes: t.end - t.start,
        },
    };
    let entries: Vec<Entry> = source.tensors.iter().map(entry).collect();
    let mut file = File::open(path).map_err(|e| ModelsError::file(path, e))?;
    let fresh = path.with_extension("safetensors.new");
    let (mut raw, mut values) = (Vec::new(), Vec::new());
    write(&fresh, &entries, &format!("convert to {dtype}"), on_event, |i, out| {
        let tensor = &source.tensors[i];
        raw.resize((tensor.end - tensor.start) as usize, 0);
        let read = file
            .seek(SeekFrom::Start(source.data_start + tensor.start))
            .and_then(|_| file.read_exact(&mut raw));
        read.map_err(|e| ModelsError::file(path, e))?;
        match float(&tensor.dtype) {
            Some(old) if old != dtype => {
                values.clear();
                old.decode(&raw, &mut values);
                let fits = dtype.encode(&values, out);
                fits.map_err(|e| ModelsError::file(path, format!("tensor {}: {e}", tensor.name)))?;
            }
            _ => out.extend_from_slice(&raw),
        }
        Ok(())
    })?;
    fs::rename(&fresh, path).map_err(|e| ModelsError::cache(path, e))
}

#[cfg(test)]
mod tests;
