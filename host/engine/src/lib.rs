//! The engine: turns requests into steps of a model, and steps into tokens.
//!
//! One plain thread owns all state and calls [`Engine::step`]; everyone else talks to it through a
//! [`Handle`]. A sequence has `computed` tokens chasing `known` ones, and a step gives each sequence
//! some of what it lacks: that one rule covers prefill, chunks, prefix hits and decoding.
//!
//! Invariant: sees token ids only, never text. Takes time as an argument: no clock, no randomness, no
//! I/O. Every KV block id comes from `tokenmill-kv`, and every answer of a policy is checked here.
#![forbid(unsafe_code)]

mod batch;
mod config;
mod consult;
mod deliver;
mod draft;
mod engine;
mod event;
mod forks;
mod handle;
mod history;
mod intake;
mod mix;
mod place;
mod plan;
mod request;
mod requests;
mod room;
mod sampling;
mod seats;
mod seen;
mod sequences;
mod special;
mod stats;
mod step;

pub use config::{Config, Error};
pub use engine::{Engine, Progress};
pub use event::{Event, Failure, FinishReason, Output, TokenLogprob, Usage};
pub use handle::{Handle, Refused, RequestId};
pub use request::{Limits, Request};
pub use stats::{Blocks, Fallbacks, Finished, Stats};
pub use tokenmill_policy::{Params, Samplers};
