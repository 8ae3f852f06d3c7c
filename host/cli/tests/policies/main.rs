//! Policies in the real server: chosen by flags, changed by the operator and by files, under load.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod admin;
mod choosing;
mod command;
mod guests;
mod reload;
mod server;
