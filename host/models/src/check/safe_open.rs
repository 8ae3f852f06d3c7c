//! Files of a hostile directory: no pipes or devices, no links that lead out.
use crate::ModelsError;
use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};

pub(super) fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Fails unless `path` is a regular file that really lies in `dir`. The one way out allowed is the layout of the
/// Hugging Face cache, where `snapshots/REVISION/FILE` is a link into `blobs/` of the same model.
pub(super) fn inside(dir: &Path, path: &Path) -> Result<(), ModelsError> {
    let real = |p: &Path| p.canonicalize().map_err(|e| ModelsError::file(path, e));
    let (dir, file) = (real(dir)?, real(path)?);
    let snapshot = dir.parent().filter(|p| p.file_name().is_some_and(|n| n == "snapshots"));
    let blobs = snapshot.and_then(Path::parent).map(|model| model.join("blobs"));
    if !file.starts_with(&dir) && !blobs.is_some_and(|blobs| file.starts_with(blobs)) {
        return Err(ModelsError::file(path, "is a link that leads out of the model directory"));
    }
    if !file.is_file() {
        return Err(ModelsError::file(path, "is not a regular file"));
    }
    Ok(())
}

/// The bytes of a small file that has passed [`inside`].
pub(super) fn read_small(dir: &Path, path: &Path, max: u64) -> Result<Vec<u8>, ModelsError> {
    if !exists(path) {
        return Err(ModelsError::file(path, "does not exist"));
    }
    inside(dir, path)?;
    let failed = |e: std::io::Error| ModelsError::file(path, e);
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(max + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > max {
        return Err(ModelsError::file(path, format!("is larger than {} MiB", max >> 20)));
    }
    Ok(bytes)
}
