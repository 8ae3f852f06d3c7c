//! Runs a sampling policy without a server, for tests: a model is a function from a sequence's tokens to its
//! logits, and every branch of every request has a row in every step.
//!
//! Invariant: applies answers as the host does, and panics where the host would fall back on its default.
#![forbid(unsafe_code)]
#![allow(clippy::panic, clippy::unwrap_used, reason = "only tests use this, and a test fails by panicking")]

mod device;
mod run;

pub use device::Row;
pub use run::{Branch, End, Nothing, Outcome, run};

/// What one request asks for. `Default`: one branch, sampled greedily by the device.
#[derive(Clone, Debug)]
pub struct Asked {
    pub prompt: Vec<u32>,
    /// `policy.args.<key>`
    pub args: Vec<(String, String)>,
    pub seed: u64,
    pub temperature: f32,
    pub stop_tokens: Vec<u32>,
    pub max_tokens: u32,
    /// Branches at the start.
    pub n: u32,
    /// Branches that have not ended, at most.
    pub max_branches: usize,
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            prompt: vec![1],
            args: Vec::new(),
            seed: 1,
            temperature: 0.0,
            stop_tokens: Vec::new(),
            max_tokens: 16,
            n: 1,
            max_branches: 1,
        }
    }
}

impl Asked {
    /// The same with arguments; a string is given as it is, anything else as JSON.
    pub fn with(mut self, args: &[(&str, &str)]) -> Self {
        self.args.extend(args.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        self
    }
}
