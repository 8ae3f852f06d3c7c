//! The host's services, and what a panic says.

use std::sync::Arc;

use tokenmill_policy::{Host, Services};

use crate::bindings::scheduling::host;

/// The imports of interface `host`, the same in both worlds.
struct Imports;

pub(crate) fn services() -> Host {
    Arc::new(Imports)
}

/// A panic traps, which loses its message: the operator's log gets it first.
pub(crate) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| host::log(&panic.to_string())));
}

impl Services for Imports {
    fn log(&self, message: &str) {
        host::log(message);
    }

    fn vocab(&self) -> u32 {
        host::vocab()
    }

    fn token_bytes(&self, first: u32, count: u32) -> (Vec<u32>, Vec<u8>) {
        let tokens = host::token_bytes(first, count);
        (tokens.starts, tokens.bytes)
    }

    fn tokenize(&self, text: &str) -> Vec<u32> {
        host::tokenize(text)
    }
}
