//! Model directories: find one, fetch one, convert one, check one.
//!
//! A model is a directory in Hugging Face's shape: config.json, *.safetensors (one file, or several with an
//! index), tokenizer.json, tokenizer_config.json, generation_config.json. Everything in it counts as hostile.
//!
//! Invariant: this crate never runs a model, never runs code that came with one, and prints nothing: what it
//! has to say goes to the caller's [`Event`] function.
#![forbid(unsafe_code)]

mod cache;
mod check;
mod convert;
mod dtype;
mod error;
mod gguf;
mod known;
mod source;
mod weights;

pub use cache::{Cache, CachedModel, ModelDir};
pub use check::{Report, check};
pub use dtype::Dtype;
pub use error::ModelsError;
pub use known::{DEFAULT_MODEL, terms};

/// What a long operation has to say while it runs.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// One line worth showing.
    Info(&'a str),
    /// Bytes done of the bytes there are, where that is known. Phases come one after another.
    Progress { phase: &'a str, done: u64, total: Option<u64> },
}

/// The function that hears of events.
pub(crate) type OnEvent<'a> = dyn FnMut(Event<'_>) + 'a;
