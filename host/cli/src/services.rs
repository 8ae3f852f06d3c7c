//! What the host offers policies: its log, and the tokenizer.

use std::sync::Arc;
use tokenmill_policy::Services;
use tokenmill_text::Tokenizer;

/// Characters of a policy's message that are logged.
const LONGEST: usize = 400;

pub(crate) struct Vocabulary {
    pub(crate) tokenizer: Option<Arc<Tokenizer>>,
    /// Of the model, which may have more rows than the tokenizer has tokens.
    pub(crate) tokens: u32,
}

impl Services for Vocabulary {
    fn log(&self, message: &str) {
        let short: String = message.chars().take(LONGEST).filter(|c| !c.is_control()).collect();
        tracing::info!("policy: {short}");
    }

    fn vocab(&self) -> u32 {
        self.tokens
    }

    fn token_bytes(&self, first: u32, count: u32) -> (Vec<u32>, Vec<u8>) {
        let count = self.tokens.saturating_sub(first).min(count);
        let mut starts = Vec::with_capacity(count as usize + 1);
        let mut bytes = Vec::new();
        starts.push(0);
        for token in first..first.saturating_add(count) {
            let text = self.tokenizer.as_ref().filter(|tokenizer| !tokenizer.is_special(token));
            bytes.extend(text.and_then(|tokenizer| tokenizer.token_bytes(token)).unwrap_or_default());
            starts.push(bytes.len() as u32);
        }
        (starts, bytes)
    }

    fn tokenize(&self, text: &str) -> Vec<u32> {
        let tokenizer = self.tokenizer.as_ref();
        tokenizer.and_then(|tokenizer| tokenizer.encode_plain(text, false).ok()).unwrap_or_default()
    }
}
