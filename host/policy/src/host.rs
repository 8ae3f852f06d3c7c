use std::sync::Arc;

/// What the host offers every policy. No clock, no randomness, no files.
pub type Host = Arc<dyn Services>;

/// Logging, and the model's tokens.
pub trait Services: Send + Sync {
    /// A line for the operator's log; the host may shorten it or leave it out.
    fn log(&self, message: &str);
    /// Token ids are below this.
    fn vocab(&self) -> u32;
    /// The bytes of `count` tokens from `first` on, as far as they exist: token i's are
    /// `bytes[starts[i]..starts[i + 1]]`. Special tokens have none.
    fn token_bytes(&self, first: u32, count: u32) -> (Vec<u32>, Vec<u8>);
    /// The tokens of a text, without special tokens around it.
    fn tokenize(&self, text: &str) -> Vec<u32>;
}

/// A host without a tokenizer that logs nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent {
    pub vocab: u32,
}

impl Services for Silent {
    fn log(&self, _: &str) {}

    fn vocab(&self) -> u32 {
        self.vocab
    }

    fn token_bytes(&self, first: u32, count: u32) -> (Vec<u32>, Vec<u8>) {
        let count = self.vocab.saturating_sub(first).min(count);
        (vec![0; count as usize + 1], Vec::new())
    }

    fn tokenize(&self, _: &str) -> Vec<u32> {
        Vec::new()
    }
}
