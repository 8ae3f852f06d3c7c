//! A backend without weights: the test double of the engine and the server.
//!
//! It keeps the contract of the ABI to the letter and makes the host's mistakes visible. Each KV slot
//! stores the token and the hash of the whole prefix up to it; a step checks that every earlier position
//! of each sequence holds the hash that its own tokens give, and the logits of a row are a function of
//! that hash. So a block freed too early, shared wrongly or not copied is an error that names it, and
//! equal prefixes give equal tokens however they were cached, chunked, preempted or forked.
//! [`Options`] lists its switches: sizes, scripts, delays and faults.
//!
//! Invariant: no threads, no randomness, no weights; the clock is used for `step_us` alone.

mod ffi;
mod kv;
mod model;
mod options;
mod sampler;
mod validate;
mod vocab;

pub use ffi::entry;
pub use options::Options;

tokenmill_backend_abi::manifest!("null", "deterministic tokens without a model, for tests and benchmarks");

use tokenmill_backend_abi as abi;

/// The one symbol of `tokenmill.h`.
#[unsafe(no_mangle)]
extern "C" fn tm_backend(major: u32) -> *const abi::Api {
    entry(major)
}

/// What a call reports instead of `TM_OK`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) code: abi::Code,
    pub(crate) text: String,
}

pub(crate) fn invalid(text: impl Into<String>) -> Fault {
    Fault { code: abi::INVALID, text: text.into() }
}
