use tokenmill_policy::Params;

use crate::handle::Refused;

/// A prompt and what to make of it.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// At least one token; every id below the vocabulary's size.
    pub prompt: Vec<u32>,
    pub sampling: Params,
    /// Branches, at least 1; they share the prompt's KV.
    pub n: u32,
    /// Branches that have not ended, at most, counting those that a sampling policy forks; less than `n`
    /// means `n`. Seats for all of them are kept from the start.
    pub max_branches: u32,
    /// Tokens to generate at most, per branch; 0 only scores the prompt. The model's length also ends a branch.
    pub max_tokens: u32,
    /// Stop tokens cannot be drawn before this many tokens.
    pub min_tokens: u32,
    /// End tokens and further stop tokens; none means that only lengths end a branch.
    pub stop_tokens: Vec<u32>,
    /// Alternatives to report for each generated token; `Some(0)` and `None` report none.
    pub logprobs: Option<u32>,
    /// Score the prompt, with this many alternatives for each token.
    pub prompt_logprobs: Option<u32>,
    /// For the scheduler; the built-in one ignores it.
    pub priority: i32,
    /// Hash of who asks. Tenants share no prefix cache.
    pub tenant: u64,
    /// For the scheduler: when the first token is due, on the engine's clock.
    pub deadline_us: Option<u64>,
    /// Requests of one tenant share cached prefixes only under the same salt.
    pub cache_salt: u64,
    /// Name of the sampling policy; none: the device samples with the request's parameters alone.
    pub sampler: Option<String>,
    /// Arguments for policies: the fields `policy.args.<key>`, strings as they are, anything else as JSON.
    pub attributes: Vec<(String, String)>,
}

/// What bounds a request; fixed when the engine starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Token ids are below this.
    pub vocab: u32,
    /// Prompt and output together.
    pub max_model_len: u32,
    /// Branches of one request.
    pub max_branches: u32,
    /// KV blocks of the pool and tokens per block.
    pub n_blocks: u32,
    pub block_tokens: u32,
}

impl Limits {
    /// Whether a request is one that the engine can run; the error names the field.
    pub fn check(&self, request: &Request) -> Result<(), Refused> {
        let invalid =
            |field: &'static str, message: &str| Refused::Invalid { field, message: message.to_owned() };
        if request.prompt.is_empty() {
            return Err(invalid("prompt", "must have at least one token"));
        }
        let tokens = request.prompt.len() as u64 + u64::from(request.max_tokens > 0);
        if tokens > u64::from(self.max_model_len) {
            return Err(Refused::TooLong { tokens: request.prompt.len() as u64, limit: self.max_model_len });
        }
        if request.prompt.iter().any(|&token| token >= self.vocab) {
            return Err(invalid("prompt", "has a token id outside the vocabulary"));
        }
        if request.n == 0 || request.n > self.max_branches {
            return Err(Refused::Invalid {
                field: "n",
                message: format!("must be between 1 and {}", self.max_branches),
            });
        }
        if request.max_branches > self.max_branches {
            return Err(Refused::Invalid {
                field: "max_branches",
                message: format!("must be at most {}", self.max_branches),
            });
        }
        if request.min_tokens > request.max_tokens {
            return Err(invalid("min_tokens", "must be at most max_tokens"));
        }
        if request.stop_tokens.iter().any(|&token| token >= self.vocab) {
            return Err(invalid("stop_token_ids", "has a token id outside the vocabulary"));
        }
        for (field, count) in [("logprobs", request.logprobs), ("prompt_logprobs", request.prompt_logprobs)] {
            if count.is_some_and(|count| count > self.vocab) {
                return Err(invalid(field, "must be at most the vocabulary's size"));
            }
        }
        request.sampling.check(self.vocab).map_err(|(field, why)| invalid(field, why))
    }
}
