//! What several policies need: their configuration, requests' arguments, state by sequence, and a queue of
//! prompts in an order of their own.
//!
//! Invariant: knows no policy, and nothing of WebAssembly.
#![forbid(unsafe_code)]

mod args;
mod choose;
mod config;
mod groups;
mod queue;
mod requests;
mod sequences;
mod track;

pub use args::Args;
pub use choose::{Candidates, FEW};
pub use config::config;
pub use groups::Groups;
pub use queue::{Queue, Seq};
pub use requests::Requests;
pub use sequences::{Numbers, Sequences, Spread};
pub use track::Track;
