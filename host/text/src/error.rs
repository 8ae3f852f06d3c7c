//! What can go wrong with text, one variant per thing a caller can do about it.
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// An error of this crate. `File` speaks of the model directory; all others speak of one request.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
pub enum TextError {
    /// A file of the model directory is missing, unreadable or hostile: do not serve this model.
    #[error("{}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    /// This text cannot be tokenized.
    #[error("the text cannot be tokenized: {0}")]
    Encode(String),
    /// These ids cannot be decoded.
    #[error("the ids cannot be decoded: {0}")]
    Decode(String),
    /// The chat template refused the conversation, with the template's own message where it has one.
    #[error("the chat template refused the conversation: {0}")]
    Template(String),
    /// Rendering would take more time or memory than any honest conversation of this size.
    #[error("rendering the chat template took more than its budget")]
    TemplateBudget,
    /// A message has a shape no template can use; the text names the field.
    #[error("{0}")]
    Message(String),
}

impl TextError {
    pub(crate) fn file(path: &Path, reason: impl ToString) -> Self {
        TextError::File { path: path.to_path_buf(), reason: reason.to_string() }
    }
}
