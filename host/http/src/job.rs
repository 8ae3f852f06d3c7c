//! A completions request that was understood: everything between its body and the engine.

use crate::app::{Id, Server, unix_seconds};
use crate::caller::Caller;
use crate::error::ApiError;
use crate::fields::{Fields, Int};
use crate::params::Common;
use crate::prompt::{self, Budget, Prompt};
use crate::shape::Shape;
use std::sync::Arc;
use tokenmill_engine::Request;
use tokenmill_grammar::Prepared;

pub(crate) struct Job {
    pub(crate) shape: Shape,
    pub(crate) id: Id,
    pub(crate) created: u64,
    pub(crate) common: Common,
    pub(crate) prompts: Vec<Prompt>,
    /// Alternatives to show per token.
    pub(crate) logprobs: Option<u32>,
    /// The prompt comes before the answer; with `logprobs`, scored.
    pub(crate) echo: bool,
    /// Branches to draw; the best `common.n` are shown.
    pub(crate) best_of: u32,
    /// Keeps what was compiled for the request.
    grammar: Option<Prepared>,
}

/// Known on the completions route only, and not supported.
const COMPLETION_REFUSED: &[(&str, &[&str])] = &[("suffix", &["\"\""])];

/// Known on the chat route only, and not supported.
const CHAT_REFUSED: &[(&str, &[&str])] = &[
    ("tools", &["[]"]),
    ("tool_choice", &["\"none\""]),
    ("functions", &["[]"]),
    ("function_call", &["\"none\""]),
    ("modalities", &["[\"text\"]"]),
    ("audio", &[]),
    ("prediction", &[]),
    ("web_search_options", &[]),
    ("reasoning_effort", &["\"none\""]),
    ("verbosity", &[]),
    ("chat_template", &[]),
    ("documents", &["[]"]),
    ("echo", &["false"]),
    ("add_special_tokens", &["false"]),
];

/// Tokens of a completion that does not say (OpenAI's default).
const COMPLETION_TOKENS: u32 = 16;

impl Job {
    pub(crate) fn completion(body: &[u8], server: &Server) -> Result<Self, ApiError> {
        let app = &server.app;
        let fields = Fields::parse(body, &app.limits)?;
        model(&fields, server)?;
        fields.refuse(COMPLETION_REFUSED)?;
        let common = Common::read(&fields, server)?;
        let echo = fields.flag("echo")?.unwrap_or(false);
        let budget = Budget::read(&fields, app, i64::from(!echo), Some(COMPLETION_TOKENS))?;
        let logprobs = Int { name: "logprobs", min: 0, max: i64::from(app.limits.logprobs) };
        let best_of = best_of(&fields, &common, server)?;
        let logprobs = fields.int(logprobs)?.map(|k| k as u32);
        let mut prompts = prompt::completion_prompts(&fields, app, echo)?;
        for prompt in &mut prompts {
            prompt.max_tokens = budget.after(prompt.ids.len(), "prompt")?;
        }
        Self { shape: Shape::Completion, prompts, logprobs, echo, best_of, ..Self::new(common, server) }
            .check(server)
    }

    pub(crate) fn chat(body: &[u8], server: &Server) -> Result<Self, ApiError> {
        let app = &server.app;
        let fields = Fields::parse(body, &app.limits)?;
        model(&fields, server)?;
        fields.refuse(CHAT_REFUSED)?;
        let common = Common::read(&fields, server)?;
        let budget = Budget::read(&fields, app, 1, None)?;
        let top = Int { name: "top_logprobs", min: 0, max: i64::from(app.limits.logprobs) };
        let top = fields.int(top)?;
        let logprobs = match (fields.flag("logprobs")?.unwrap_or(false), top) {
            (true, top) => Some(top.unwrap_or(0) as u32),
            (false, None | Some(0)) => None,
            (false, Some(_)) => {
                return Err(ApiError::invalid("top_logprobs", "`top_logprobs` needs `logprobs: true`"));
            }
        };
        let best_of = best_of(&fields, &common, server)?;
        let ids = prompt::chat_prompt(&fields, app)?;
        let max_tokens = budget.after(ids.len(), "messages")?;
        let prompts = vec![Prompt { ids, text: None, max_tokens }];
        Self { prompts, logprobs, best_of, ..Self::new(common, server) }.check(server)
    }

    fn new(common: Common, server: &Server) -> Self {
        Self {
            shape: Shape::Chat,
            id: server.next_id(),
            created: unix_seconds(),
            best_of: common.n,
            common,
            prompts: Vec::new(),
            logprobs: None,
            echo: false,
            grammar: None,
        }
    }

    /// Compiles the form of the output, on a thread of its own.
    pub(crate) async fn prepare(&mut self, server: &Arc<Server>) -> Result<(), ApiError> {
        let (Some(grammars), Some(grammar)) = (&server.app.grammars, self.common.steering.grammar.take())
        else {
            return Ok(());
        };
        let permit = server.tokenising.clone().acquire_owned().await.map_err(|_| ApiError::internal())?;
        let grammars = grammars.clone();
        let compiled = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            grammars.prepare(&grammar)
        });
        let compiled = compiled.await.map_err(|_| {
            server.metrics.panics.add(1);
            ApiError::internal()
        })?;
        let prepared = compiled.map_err(|error| ApiError::invalid("response_format", error.to_string()))?;
        // Before the client's own arguments, which may have one of the same name.
        self.common.steering.attributes.insert(0, prepared.attribute());
        self.grammar = Some(prepared);
        Ok(())
    }

    /// Choices in order: as branches began, or the best first.
    pub(crate) fn ranking(&self) -> Option<f64> {
        let best = (self.best_of > self.common.n).then_some(1.0);
        self.common.steering.ranking.or(best)
    }

    /// Bounds that several fields have together.
    fn check(self, server: &Server) -> Result<Self, ApiError> {
        let most = server.app.limits.logprob_values;
        if let Some(k) = self.logprobs {
            let tokens: u64 = self
                .prompts
                .iter()
                .map(|prompt| {
                    let echoed = if self.echo { prompt.ids.len() as u64 } else { 0 };
                    let branches = self.best_of.max(self.common.steering.branches);
                    u64::from(prompt.max_tokens) * u64::from(branches) + echoed
                })
                .sum();
            if tokens * u64::from(k + 1) > most {
                let name = if self.shape == Shape::Chat { "top_logprobs" } else { "logprobs" };
                let message = format!("`{name}` times the tokens of this request is more than {most} values");
                return Err(ApiError::invalid(name, message));
            }
        }
        Ok(self)
    }

    /// The engine's request for one prompt.
    pub(crate) fn request(&self, prompt: &Prompt, caller: &Caller, server: &Server) -> Request {
        let mut sampling = self.common.sampling.clone();
        sampling.seed = self.common.seed.unwrap_or_else(|| server.seed(self.id));
        Request {
            prompt: prompt.ids.clone(),
            sampling,
            n: self.best_of,
            max_branches: self.common.steering.branches,
            sampler: self.common.steering.sampler.clone(),
            max_tokens: prompt.max_tokens,
            min_tokens: self.common.min_tokens,
            stop_tokens: self.common.stop_tokens.clone(),
            logprobs: self.logprobs,
            prompt_logprobs: self.logprobs.filter(|_| self.echo),
            priority: self.common.priority,
            tenant: caller.tenant,
            deadline_us: caller.deadline_us(server.app.engine_start),
            attributes: [&self.common.steering.attributes[..], &caller.attributes].concat(),
            cache_salt: self.common.cache_salt,
        }
    }
}

/// Branches that a request begins with.
fn best_of(fields: &Fields<'_>, common: &Common, server: &Server) -> Result<u32, ApiError> {
    let app = &server.app;
    let most = app.limits.n.min(app.engine.limits().max_branches);
    let best_of = Int { name: "best_of", min: i64::from(common.n), max: i64::from(most) };
    let best_of = fields.int(best_of)?.map_or(common.n, |n| n as u32);
    if common.steering.branches > 0 {
        return Ok(1); // The policy forks the others from it.
    }
    if best_of > common.n && common.stream.is_some() {
        return Err(ApiError::invalid("best_of", "`best_of` above `n` cannot be streamed"));
    }
    Ok(best_of)
}

/// `model` may be left out where one model is served; a wrong name is a 404.
pub(crate) fn model(fields: &Fields<'_>, server: &Server) -> Result<(), ApiError> {
    match fields.text("model")? {
        Some(name) if !server.app.card.is_named(&name) => Err(ApiError::unknown_model(&name)),
        _ => Ok(()),
    }
}
