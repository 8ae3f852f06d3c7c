//! The tokens of a model, as policies see them.

use std::path::Path;

use tokenmill_policy::Services;
use tokenmill_text::Tokenizer;

pub(crate) struct Tokens {
    pub(crate) vocab: u32,
    pub(crate) tokenizer: Tokenizer,
}

impl Tokens {
    pub(crate) fn of(model: &Path) -> Self {
        let config = std::fs::read(model.join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        let vocab = config["vocab_size"].as_u64().unwrap() as u32;
        Self { vocab, tokenizer: Tokenizer::from_dir(model).unwrap() }
    }

    /// Of one token; special ones have none.
    pub(crate) fn bytes(&self, token: u32) -> Vec<u8> {
        let text = Some(token).filter(|&token| !self.tokenizer.is_special(token));
        text.and_then(|token| self.tokenizer.token_bytes(token)).unwrap_or_default()
    }
}

impl Services for Tokens {
    fn log(&self, message: &str) {
        eprintln!("policy: {message}");
    }

    fn vocab(&self) -> u32 {
        self.vocab
    }

    fn token_bytes(&self, first: u32, count: u32) -> (Vec<u32>, Vec<u8>) {
        let (mut starts, mut bytes) = (vec![0], Vec::new());
        for token in first..self.vocab.min(first.saturating_add(count)) {
            bytes.extend(self.bytes(token));
            starts.push(bytes.len() as u32);
        }
        (starts, bytes)
    }

    fn tokenize(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode_plain(text, false).unwrap()
    }
}
