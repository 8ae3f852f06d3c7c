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
