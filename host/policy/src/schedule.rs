//! Which sequences run in the next step, and with how many tokens.

use crate::{Attributes, Error};

/// Decides what the next step computes.
pub trait Scheduler: Send {
    /// Once per step, while the device still runs the step before.
    fn plan(&mut self, view: &View<'_>, order: &mut Order) -> Result<(), Error>;
}

/// All unfinished sequences. Columns have one entry per sequence, in order of arrival.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub now_us: u64,
    /// Tokens of a step at most.
    pub token_budget: u32,
    /// KV blocks that can be handed out, cached ones included.
    pub free_blocks: u32,
    pub block_tokens: u32,
    /// Sequences that may start: those that hold no KV yet.
    pub free_seqs: u32,
    /// Never reused.
    pub ids: &'a [u64],
    /// Tokens to compute before the next output; 1 while decoding, 0 while there is nothing to do.
    pub pending: &'a [u32],
    /// Tokens whose KV is held now, prefix hits included.
    pub resident: &'a [u32],
    /// Output tokens, those that the steps in flight sample included.
    pub generated: &'a [u32],
    pub arrived_us: &'a [u64],
    pub priority: &'a [i32],
    /// Hash of the tenant, 0 if none.
    pub tenant: &'a [u64],
    /// When the first token is due, on the clock of `now_us`; `u64::MAX` if never.
    pub deadline_us: &'a [u64],
    /// Sequences that ended since the last call.
    pub finished: &'a [u64],
    pub attributes: &'a dyn Attributes,
}

/// The scheduler's answer; the engine clips it to budget and memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    pub indices: Vec<u32>,
    pub tokens: Vec<u32>,
    pub rejected: Vec<u32>,
}

impl Order {
    /// Gives `tokens[i]` to sequence `indices[i]`, in this order. When blocks run out, the running
    /// sequences that come last here or not at all are preempted; 0 tokens only claims a place.
    pub fn run(&mut self, indices: &[u32], tokens: &[u32]) {
        self.indices.extend_from_slice(indices);
        self.tokens.extend_from_slice(tokens);
    }

    /// Refuses the requests of these sequences.
    pub fn reject(&mut self, indices: &[u32]) {
        self.rejected.extend_from_slice(indices);
    }

    pub fn clear(&mut self) {
        self.indices.clear();
        self.tokens.clear();
        self.rejected.clear();
    }
}
