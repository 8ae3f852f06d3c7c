//! The one transformer of Tokenmill, generic over the device it runs on.
//!
//! Invariant: no FFI, no file, no thread, no clock: weights come from a byte source, so the same code
//! builds for a device library and for wasm32.
#![forbid(unsafe_code)]

pub mod check;
pub mod config;
pub mod decoder;
pub mod device;
pub mod error;
mod load;
mod matrix;
pub mod rope;
pub mod safetensors;
pub mod shard;
pub mod source;
pub mod transformer;
pub mod weights;
