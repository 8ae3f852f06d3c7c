//! What decides, apart from what is decided on: the `Scheduler` and `Sampler` traits, the columns they
//! see, and the built-in defaults.
//!
//! A policy reads columns (one entry per sequence or row, in one order) and writes columns; the engine
//! checks every answer, so a policy can delay or reorder work and choose text but never corrupt state.
//! The shapes are those of `wit/policy.wit`: one implementation of these traits is compiled into the host
//! or, through `plugins/guest`, into a WebAssembly component.
//!
//! Invariant: no clock, no randomness, no I/O, and nothing of blocks, tickets, text or HTTP. The same
//! columns give the same answer.
#![forbid(unsafe_code)]

mod check;
mod error;
mod fcfs;
mod host;
mod params;
pub mod sample;
mod samplers;
pub mod schedule;
mod within;

pub use error::Error;
pub use fcfs::Fcfs;
pub use host::{Host, Services, Silent};
pub use params::Params;
pub use sample::Sampler;
pub use samplers::{Named, Samplers};
pub use schedule::Scheduler;
pub use within::{Shared, Within};
