//! The real server in the test's own process, and a client that speaks HTTP by hand.
//!
//! Tests say in a [`Setup`] what differs from the usual server: backend options, limits, keys. The usual one
//! is the null backend under the tokenizer of `tests/fixtures/models/llama-gqa`.
//!
//! Invariant: clients reach the server over TCP only; the engine's handle is there to look at, not to steer.
#![allow(clippy::unwrap_used, clippy::panic)] // A test may panic, and so may its helpers.

mod client;
mod server;

pub use client::{Client, Reply, Streamed, parse_events};
pub use server::{Running, Setup, fixture, library};
