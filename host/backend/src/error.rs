//! One variant per thing a caller can do about it.

use std::ffi::CStr;
use std::path::PathBuf;

use tokenmill_backend_abi as abi;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such file: give another name or path, or install it.
    #[error("no backend library {name:?}; looked for {}", list(.looked))]
    NotFound { name: String, looked: Vec<PathBuf> },
    /// The file is something else, or a broken backend.
    #[error("{} is not a Tokenmill backend for this machine: {reason}", .path.display())]
    NotABackend { path: PathBuf, reason: String },
    /// The library was built for another major version of the ABI: rebuild one of the two.
    #[error("{} speaks backend ABI {theirs}, this host speaks {ours}", .path.display())]
    WrongAbi { path: PathBuf, theirs: u32, ours: u32 },
    /// The file is a backend, but it cannot be read or the dynamic loader refuses it (a library it needs
    /// is missing, permissions).
    #[error("cannot open backend {}: {reason}", .path.display())]
    Open { path: PathBuf, reason: String },
    /// An argument breaks the contract; the message names it.
    #[error("invalid argument: {0}")]
    Invalid(String),
    /// The model, an option or this machine lacks something the backend needs.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// Too little device or host memory.
    #[error("out of memory: {0}")]
    NoMemory(String),
    /// `depth` tickets are alive: release one first.
    #[error("busy: {0}")]
    Again(String),
    /// The device is gone; dropping the model is all that is left.
    #[error("device lost: {0}")]
    Lost(String),
    /// A defect of the backend.
    #[error("backend defect: {0}")]
    Internal(String),
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

impl Error {
    /// What `call` reported by `code` (not OK) and `message`.
    pub(crate) fn from_code(call: &str, code: abi::Code, message: &abi::Message) -> Self {
        let text = message_text(message);
        let text = if text.is_empty() { format!("{call} failed") } else { format!("{call}: {text}") };
        match code {
            abi::INVALID => Self::Invalid(text),
            abi::UNSUPPORTED => Self::Unsupported(text),
            abi::NO_MEMORY => Self::NoMemory(text),
            abi::AGAIN => Self::Again(text),
            abi::LOST => Self::Lost(text),
            abi::INTERNAL => Self::Internal(text),
            abi::TIMEOUT => Self::Internal(format!("{text} (a timeout, which only wait may report)")),
            other => Self::Internal(format!("{text} (unknown code {other})")),
        }
    }
}

/// The text up to the NUL; a backend that forgot the NUL or wrote broken UTF-8 does no harm.
pub(crate) fn message_text(message: &abi::Message) -> String {
    text(&message.text).unwrap_or_else(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// A NUL-terminated UTF-8 text in a fixed array; the raw bytes if it is not that.
pub(crate) fn text(chars: &[std::ffi::c_char]) -> Result<String, Vec<u8>> {
    let bytes: Vec<u8> = chars.iter().map(|&c| c as u8).collect();
    match CStr::from_bytes_until_nul(&bytes) {
        Ok(text) => text.to_str().map(str::to_owned).map_err(|_| text.to_bytes().to_vec()),
        Err(_) => Err(bytes),
    }
}
