//! Which weight files a directory has: one, or shards listed in an index. Pickle is never opened.
use super::safe_open::{exists, read_small};
use crate::ModelsError;
use serde::Deserialize;
use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};

const MAX_INDEX: u64 = 32 << 20;

pub(super) struct WeightFiles {
    pub(super) paths: Vec<PathBuf>,
    /// Tensors the index promises, with the index's path.
    promised: Option<(PathBuf, HashMap<String, String>)>,
}

/// `model.safetensors`, else the files `model.safetensors.index.json` names.
pub(super) fn weight_files(dir: &Path, notes: &mut Vec<String>) -> Result<WeightFiles, ModelsError> {
    let pickles = pickles(dir)?;
    let single = dir.join("model.safetensors");
    let index = dir.join("model.safetensors.index.json");
    let files = if exists(&single) {
        WeightFiles { paths: vec![single], promised: None }
    } else if exists(&index) {
        shards(dir, index)?
    } else if let Some(pickle) = pickles.first() {
        let reason = "pickle files can run code when read and are refused; convert the model to safetensors";
        return Err(ModelsError::file(&dir.join(pickle), reason));
    } else {
        return Err(ModelsError::file(&single, "does not exist"));
    };
    notes
        .extend(pickles.iter().map(|name| format!("{name} is ignored: pickle files can run code when read")));
    Ok(files)
}

fn pickles(dir: &Path) -> Result<Vec<String>, ModelsError> {
    let entries = fs::read_dir(dir).map_err(|e| ModelsError::file(dir, e))?;
    let names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    let mut pickles: Vec<String> = names
        .filter(|n| [".bin", ".pt", ".pth", ".pkl", ".ckpt"].iter().any(|end| n.ends_with(end)))
        .collect();
    pickles.sort();
    Ok(pickles)
}

fn shards(dir: &Path, index: PathBuf) -> Result<WeightFiles, ModelsError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let bad = |e: String| ModelsError::file(&index, e);
    let bytes = read_small(dir, &index, MAX_INDEX)?;
    let Index { weight_map } = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
    let names: BTreeSet<&str> = weight_map.values().map(String::as_str).collect();
    let mut paths = Vec::new();
    for name in names {
        let plain =
            !name.contains(['/', '\\', '\0']) && !name.starts_with('.') && name.ends_with(".safetensors");
        if !plain {
            return Err(bad(format!("weight_map: {name:?} is not a .safetensors file of this directory")));
        }
        if !exists(&dir.join(name)) {
            return Err(bad(format!("weight_map: {name} does not exist")));
        }
        paths.push(dir.join(name));
    }
    if paths.is_empty() {
        return Err(bad("weight_map is empty".into()));
    }
    Ok(WeightFiles { paths, promised: Some((index, weight_map)) })
}

impl WeightFiles {
    /// Fails where a tensor of the index is in no file.
    pub(super) fn all_present(&self, found: &HashMap<String, Vec<usize>>) -> Result<(), ModelsError> {
        let Some((index, promised)) = &self.promised else { return Ok(()) };
        match promised.iter().find(|(tensor, _)| !found.contains_key(*tensor)) {
            None => Ok(()),
            Some((tensor, file)) => {
                Err(ModelsError::file(index, format!("weight_map: {tensor} is not in {file}")))
            }
        }
    }
}
