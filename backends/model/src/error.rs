//! What can go wrong, by what a caller can do about it.

/// Maps one to one to the codes of the ABI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The caller broke the contract, or a file of the model is wrong; the text names the field.
    #[error("{0}")]
    Invalid(String),
    /// The model needs something this decoder or device lacks.
    #[error("{0}")]
    Unsupported(String),
    #[error("{0}")]
    NoMemory(String),
    /// The device is gone; the model must be unloaded.
    #[error("{0}")]
    Lost(String),
}
