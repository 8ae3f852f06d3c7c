//! What can go wrong with a model directory, one variant per thing a caller can do about it.
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum ModelsError {
    /// A file of the model is missing, broken or refused: use another model. The reason names the key.
    #[error("{}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    /// No model of this name anywhere: correct the name.
    #[error("no model {name:?}: {reason}")]
    NotFound { name: String, reason: String },
    /// The model exists, but no source could deliver it now: try again, or give a directory.
    #[error("cannot fetch {name}: {reason}")]
    Unavailable { name: String, reason: String },
    /// The cache cannot be read or written.
    #[error("model cache {}: {reason}", path.display())]
    Cache { path: PathBuf, reason: String },
}

impl ModelsError {
    pub(crate) fn file(path: &Path, reason: impl ToString) -> Self {
        ModelsError::File { path: path.to_path_buf(), reason: reason.to_string() }
    }

    pub(crate) fn cache(path: &Path, reason: impl ToString) -> Self {
        ModelsError::Cache { path: path.to_path_buf(), reason: reason.to_string() }
    }
}
