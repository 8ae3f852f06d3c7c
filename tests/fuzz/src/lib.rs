//! What strangers send, made up by libFuzzer: components, what a component does with the host's functions, and
//! the answers of policies. Each target takes bytes and panics if the host did something that it must not.
//!
//! `cargo xtask fuzz` runs them with coverage of the crates of this workspace; as plain tests they run over the
//! seeds in `seeds/TARGET`, and over whatever was found and put there.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a target fails by panicking")]

mod answers;
mod bytes;
mod calls;
mod component;
mod engine;
mod guest;
mod log;
mod sandbox;

/// A target and its name.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 3] =
    [("answers", answers::run), ("calls", calls::run), ("component", component::run)];
