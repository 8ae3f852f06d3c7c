//! The policies of `plugins/` on real models: the engine over the CPU backend, stepped by hand.
//!
//! Invariant: a test names a policy and its configuration; it runs compiled in and as a component, and
//! both must give the same answers.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and so may its helpers")]

mod answer;
mod policy;
mod setup;

pub use answer::{Answer, Branch};
pub use setup::{Setup, ask, fixture};
