/// What the operator decides; the model's own limits are applied on top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Sequences that hold KV at once, at most.
    pub max_seqs: u32,
    /// Tokens of one step, at most.
    pub max_batched_tokens: u32,
    /// Prompt and output of a sequence, at most.
    pub max_model_len: u32,
    /// Requests accepted and not started, at most, and their prompt tokens.
    pub max_waiting: u32,
    pub max_waiting_tokens: u64,
    pub prefix_caching: bool,
    /// Steps in flight: 1, or 2 to plan a step while the device runs the one before.
    pub depth: u32,
    /// Tokens to guess ahead of a sequence in a step, at most (prompt lookup); 0: none. A guess follows from
    /// the newest token, so with them one step is in flight, whatever `depth` says.
    pub draft_tokens: u32,
    /// Mixed into the seed of every row.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_seqs: 256,
            max_batched_tokens: 2048,
            max_model_len: u32::MAX,
            max_waiting: 1024,
            max_waiting_tokens: 1 << 22,
            prefix_caching: true,
            depth: 2,
            draft_tokens: 0,
            seed: 0,
        }
    }
}

/// Why an engine cannot start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A field of `Config`, or of the model's own limits, leaves no room to run anything.
    #[error("{field} must be at least 1")]
    Zero { field: &'static str },
}
