//! The interface `host`: what every policy may call, with bounds on what it costs.

use crate::contract::{host, types};
use crate::error::Failure;
use crate::state::State;

/// Bytes of a log line that are kept.
const LINE: usize = 512;
/// Bytes of a text to tokenize, and tokens to spell, in a call that a step waits for; tokenizing takes up to
/// a second per MiB.
const TEXT: usize = 2 << 10;
const TOKENS: u32 = 16 << 10;
/// The same while configuring.
const CONFIG_TEXT: usize = 256 << 10;

impl types::Host for State {}

impl host::Host for State {
    fn log(&mut self, message: String) -> wasmtime::Result<()> {
        if self.log_line() {
            let mut end = message.len().min(LINE);
            while !message.is_char_boundary(end) {
                end -= 1;
            }
            self.services.log(&format!("{}: {}", self.name, &message[..end].escape_debug()));
        }
        Ok(())
    }

    fn vocab(&mut self) -> wasmtime::Result<u32> {
        Ok(self.services.vocab())
    }

    fn token_bytes(&mut self, first: u32, count: u32) -> wasmtime::Result<types::RaggedBytes> {
        self.on_time()?;
        let count = count.min(self.services.vocab().saturating_sub(first));
        if !self.configuring && count > TOKENS {
            return Err(Failure::bad(format!(
                "token-bytes of {count} tokens outside of configure, at most {TOKENS}"
            ))
            .into());
        }
        let (starts, bytes) = self.services.token_bytes(first, count);
        Ok(types::RaggedBytes { starts, bytes })
    }

    fn tokenize(&mut self, text: String) -> wasmtime::Result<Vec<u32>> {
        self.on_time()?;
        let most = if self.configuring { CONFIG_TEXT } else { TEXT };
        if text.len() > most {
            return Err(Failure::bad(format!("tokenize of {} bytes, at most {most} here", text.len())).into());
        }
        Ok(self.services.tokenize(&text))
    }
}
