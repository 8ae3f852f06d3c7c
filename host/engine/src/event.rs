//! What the receiver of a request's tokens gets to see.

/// Receives the events of one request.
pub trait Output: Send {
    /// Called on the engine's thread, so it must not block. False: the receiver is gone, cancel the
    /// request; no event follows.
    fn deliver(&mut self, event: Event<'_>) -> bool;
}

/// Events of one request, in order: `Prompt`, then `Token`s and one `Finished` for each branch, then
/// `Done`. `Failed` may come instead of any of them and is the last.
///
/// Branches 0 to n - 1 are there from the start, and a sampling policy may fork more. What a step brings
/// comes in this order: for each fork of the step `Forked`, the new branch's `Token`, and its `Finished` if
/// it ends there; then the `Finished` of branches that a policy ended; then the `Token` of every other
/// branch, those that were forked from included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event<'a> {
    /// Once, when the prompt has been computed. `logprobs` holds one entry per prompt token if
    /// `prompt_logprobs` asked for them, else it is empty.
    Prompt { cached_tokens: u32, logprobs: &'a [TokenLogprob] },
    /// The next token of a branch; `logprob` is the log-softmax of the raw logits at the token. `top`
    /// holds as many alternatives as `logprobs` asked for, most likely first.
    Token { branch: u32, token: u32, logprob: f32, top: &'a [(u32, f32)] },
    /// A new branch: it has the tokens that `parent` had before this step, and its own `Token` is the next
    /// event. Numbers are never used again; `parent` has not finished.
    Forked { branch: u32, parent: u32 },
    /// A branch is complete; it gets no event after this.
    Finished { branch: u32, reason: FinishReason },
    /// All branches are complete.
    Done(Usage),
    /// The request ended early.
    Failed(&'a Failure),
}

/// A prompt token and its log-probability after the tokens before it.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    pub token: u32,
    /// None for the first token, which nothing precedes.
    pub logprob: Option<f32>,
    /// The most likely tokens at this place, most likely first.
    pub top: Vec<(u32, f32)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// A stop token; it was delivered as a `Token` before.
    Stop,
    /// `max_tokens` or the model's length was reached.
    Length,
    /// `Handle::end_branch`, or a sampling policy ended it; what it has counts.
    Ended,
    /// A sampling policy gave it up: nobody is to see what it has.
    Pruned,
}

/// What a request used. Times count from its arrival at the engine, in microseconds of the engine's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt_tokens: u32,
    /// Prompt tokens whose KV was found in the prefix cache.
    pub cached_tokens: u32,
    /// Summed over branches, stop tokens included.
    pub completion_tokens: u32,
    /// Until its first step was submitted.
    pub queue_us: u64,
    pub first_token_us: u64,
    pub total_us: u64,
}

/// Why a request ended early.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The model's output was not a number.
    #[error("the model produced no finite probability for a token of this request")]
    Numerical,
    /// The device is gone; so is every other request.
    #[error("the device was lost: {0}")]
    BackendLost(String),
    /// The device had too little memory for the step.
    #[error("the device ran out of memory: {0}")]
    NoMemory(String),
    /// A defect of the backend or of the engine.
    #[error("internal error: {0}")]
    Internal(String),
    /// The scheduler refused the request.
    #[error("the scheduling policy refused the request")]
    Rejected,
    /// A sampler that must not be bypassed gave no valid answer.
    #[error("the sampling policy {name:?} failed: {why}")]
    Policy { name: String, why: String },
    /// A sampling policy does not take the request's arguments.
    #[error("{0}")]
    Refused(String),
    /// The engine was shut down.
    #[error("the server is shutting down")]
    Shutdown,
}

impl Failure {
    /// For a log or an error body.
    pub fn message(&self) -> String {
        self.to_string()
    }
}
