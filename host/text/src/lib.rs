//! Text in, token ids out, and back: the tokenizer, the incremental detokenizer, stop strings and chat templates.
//!
//! Invariant: this crate knows nothing of HTTP, requests or the engine. It reads the text files of a model
//! directory (tokenizer, template, end tokens), all of which count as hostile, and prints nothing. The program it
//! is part of says how to run itself again as the process apart ([`open_apart`]).
#![forbid(unsafe_code)]

mod apart;
mod chat;
mod detokenizer;
mod error;
mod file;
mod guard;
mod settings;
mod stop;
mod table;
mod tokenizer;
mod vet;

pub use apart::{open_apart, work};
pub use chat::messages::prepare_messages;
pub use chat::template::{Chat, ChatTemplate};
pub use detokenizer::Detokenizer;
pub use error::TextError;
pub use stop::{StopMatch, StopMatcher, StopOutput};
pub use tokenizer::Tokenizer;
