//! What decides, apart from what is decided on: the `Scheduler` and `Sampler` traits, the columns they
//! see, and the built-in defaults.
//!
//! A policy reads columns (one entry per sequence or row, in one order) and writes columns; the engine
//! checks every answer, so a policy can delay or reorder work and choose text but never corrupt state.
//! The shapes are those of `wit/policy.wit`, so a policy in WebAssembly implements the same traits.
//!
//! Invariant: no clock, no randomness, no I/O, and nothing of blocks, tickets, text or HTTP. The same
//! columns give the same answer.
#![forbid(unsafe_code)]

mod error;
mod fcfs;
mod params;
pub mod sample;
mod samplers;
pub mod schedule;

pub use error::Error;
pub use fcfs::Fcfs;
pub use params::Params;
pub use sample::Sampler;
pub use samplers::{Named, Samplers};
pub use schedule::Scheduler;

/// The `policy.<key>` fields of requests, by index of a sequence or row.
pub trait Attributes {
    fn attribute(&self, index: usize, key: &str) -> Option<&str>;
}
