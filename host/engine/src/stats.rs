use crate::event::FinishReason;

/// What the engine did and holds; a snapshot that may lag the engine by a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sequences that hold KV blocks.
    pub running: u64,
    /// Requests that were never started, and preempted sequences.
    pub waiting: u64,
    /// Prompt tokens of the requests that were never started.
    pub waiting_tokens: u64,
    pub blocks: Blocks,
    /// Steps submitted; stands still while the device hangs.
    pub steps: u64,
    /// Tokens of steps, prefill and decode together (recomputed ones too).
    pub computed_tokens: u64,
    /// Prompt tokens of requests that were started.
    pub prompt_tokens: u64,
    pub generated_tokens: u64,
    /// Tokens looked up in the prefix cache, and found there.
    pub prefix_queries: u64,
    pub prefix_hits: u64,
    pub preemptions: u64,
    /// Times that a sequence's next tokens were guessed, tokens guessed, and those that were right.
    pub drafts: u64,
    pub draft_tokens: u64,
    pub accepted_tokens: u64,
    pub finished: Finished,
    /// Steps in which a policy's answer was replaced by the built-in default.
    pub policy_fallbacks: Fallbacks,
    /// Tokens that a sampling policy wanted for a branch of their own, beyond the branches that a request
    /// may have.
    pub forks_refused: u64,
    /// Sum of the time between the starts of consecutive steps, in microseconds of the engine's clock.
    pub step_us: u64,
    /// The device is gone: every request failed and every new one is refused.
    pub lost: bool,
    /// No new requests: `drain` or `shutdown` was called.
    pub draining: bool,
}

/// KV blocks: `free + cached + used == total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    pub total: u64,
    pub free: u64,
    /// Held by no sequence, but known to the prefix cache; handed out when `free` runs out.
    pub cached: u64,
    pub used: u64,
}

/// Steps that a default decided, by the kind of policy it stood in for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fallbacks {
    pub scheduler: u64,
    /// Counted once for each sampling policy that failed in a step.
    pub sampler: u64,
}

impl Finished {
    pub(crate) fn count(&mut self, reason: FinishReason) {
        match reason {
            FinishReason::Stop => self.stop += 1,
            FinishReason::Length => self.length += 1,
            FinishReason::Ended => self.ended += 1,
            FinishReason::Pruned => self.pruned += 1,
        }
    }
}

/// Branches by how they ended; `cancelled` and `failed` count requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    pub stop: u64,
    pub length: u64,
    pub ended: u64,
    pub pruned: u64,
    pub cancelled: u64,
    pub failed: u64,
}
