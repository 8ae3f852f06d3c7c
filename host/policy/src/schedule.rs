//! Which sequences run in the next step, and with how many tokens.

use std::borrow::Cow;

use crate::{Error, Host};

/// Decides what the next step computes.
pub trait Scheduler: Send {
    /// Once, before anything else; `config` is the operator's text. The default takes none.
    fn configure(&mut self, config: &str, host: Host) -> Result<(), Error> {
        let _ = host;
        crate::error::no_config(config)
    }

    /// Once per step, while the device still runs the step before.
    fn plan(&mut self, view: &dyn View, order: &mut Order) -> Result<(), Error>;

    /// The engine did not apply the last answer: it names unknown or repeated sequences.
    fn refused(&mut self, why: &Error) {
        let _ = why;
    }
}

/// All unfinished sequences. Columns have one entry per sequence, in order of arrival; a policy in
/// WebAssembly pays for those that it reads.
pub trait View {
    /// Microseconds; never falls.
    fn now_us(&self) -> u64;
    /// Tokens of a step at most.
    fn token_budget(&self) -> u32;
    /// KV blocks that can be handed out, cached ones included.
    fn free_blocks(&self) -> u32;
    fn block_tokens(&self) -> u32;
    /// Sequences that may start: those that hold no KV yet.
    fn free_seqs(&self) -> u32;
    /// Never reused.
    fn ids(&self) -> &[u64];
    /// Tokens to compute before the next output; 1 while decoding, 0 while there is nothing to do.
    fn pending(&self) -> &[u32];
    /// Tokens whose KV is held now, prefix hits included.
    fn resident(&self) -> &[u32];
    /// Output tokens, those that the steps in flight sample included.
    fn generated(&self) -> &[u32];
    /// On the clock of `now_us`.
    fn arrived_us(&self) -> &[u64];
    /// The request's priority: a lower value is more urgent, as in vLLM.
    fn priority(&self) -> &[i32];
    /// Hash of the tenant, 0 if none.
    fn tenant(&self) -> &[u64];
    /// When the first token is due, on the clock of `now_us`; `u64::MAX` if never.
    fn deadline_us(&self) -> &[u64];
    /// For each sequence, a hash that it shares with those whose prompts begin alike: of the first KV
    /// block's tokens and the tenant.
    fn prefix(&self) -> &[u64];
    /// Sequences that ended since the last call.
    fn finished(&self) -> &[u64];
    /// An argument of a sequence's request: the field `policy.args.<key>`, a string as it is, anything
    /// else as JSON.
    fn attribute(&self, index: usize, key: &str) -> Option<Cow<'_, str>>;
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

/// A view made of slices. What is left out of the literal is empty.
#[derive(Clone, Copy, Default)]
pub struct Columns<'a> {
    pub now_us: u64,
    pub token_budget: u32,
    pub free_blocks: u32,
    pub block_tokens: u32,
    pub free_seqs: u32,
    pub ids: &'a [u64],
    pub pending: &'a [u32],
    pub resident: &'a [u32],
    pub generated: &'a [u32],
    pub arrived_us: &'a [u64],
    pub priority: &'a [i32],
    pub tenant: &'a [u64],
    pub deadline_us: &'a [u64],
    pub prefix: &'a [u64],
    pub finished: &'a [u64],
    pub attributes: Option<&'a dyn Attributes>,
}

/// The arguments of requests, by index of a sequence.
pub trait Attributes {
    fn attribute(&self, index: usize, key: &str) -> Option<&str>;
}

impl View for Columns<'_> {
    fn now_us(&self) -> u64 {
        self.now_us
    }

    fn token_budget(&self) -> u32 {
        self.token_budget
    }

    fn free_blocks(&self) -> u32 {
        self.free_blocks
    }

    fn block_tokens(&self) -> u32 {
        self.block_tokens
    }

    fn free_seqs(&self) -> u32 {
        self.free_seqs
    }

    fn ids(&self) -> &[u64] {
        self.ids
    }

    fn pending(&self) -> &[u32] {
        self.pending
    }

    fn resident(&self) -> &[u32] {
        self.resident
    }

    fn generated(&self) -> &[u32] {
        self.generated
    }

    fn arrived_us(&self) -> &[u64] {
        self.arrived_us
    }

    fn priority(&self) -> &[i32] {
        self.priority
    }

    fn tenant(&self) -> &[u64] {
        self.tenant
    }

    fn deadline_us(&self) -> &[u64] {
        self.deadline_us
    }

    fn prefix(&self) -> &[u64] {
        self.prefix
    }

    fn finished(&self) -> &[u64] {
        self.finished
    }

    fn attribute(&self, index: usize, key: &str) -> Option<Cow<'_, str>> {
        self.attributes?.attribute(index, key).map(Cow::Borrowed)
    }
}
