//! The policies of `plugins/` on real models: the engine over the CPU backend, stepped by hand.
//!
//! Invariant: a test names a policy and its configuration, and does not know in what form it runs.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and so may its helpers")]

mod answer;
mod policy;
mod setup;

pub use answer::{Answer, Branch};
pub use policy::policy;
pub use setup::{Setup, ask, fixture};
