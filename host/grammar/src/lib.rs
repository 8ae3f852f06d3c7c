//! Output that follows a grammar: a JSON schema, a regular expression, a choice of texts.
//!
//! [`Grammars::prepare`] compiles a grammar off the engine's thread; the sampling policy
//! [`Grammars::sampler`] then lets through, at each step, the tokens that can still lead to a text of the
//! grammar. The masks come from llguidance, whose lexer and parser state is kept per sequence.
//!
//! It is compiled in and not a WebAssembly component: compiling a schema takes longer than a step may,
//! and each instance of a component would hold its own copy of the vocabulary's trie.
//!
//! Invariant: knows tokens as bytes; nothing of HTTP, requests or devices.
#![forbid(unsafe_code)]

mod error;
mod grammar;
mod grammars;
mod sampler;

pub use error::Error;
pub use grammar::Grammar;
pub use grammars::{Grammars, Prepared};

/// The name under which the sampler is meant to be installed.
pub const SAMPLER: &str = "grammar";

/// The name of a sampling policy within a form of the output. No other policy has such a name.
pub fn within(sampler: &str) -> String {
    format!("{SAMPLER}+{sampler}")
}

/// The argument of a request that says which grammar was prepared for it.
pub const ATTRIBUTE: &str = "grammar";
