//! Commands: requests come in, and end early.

use std::sync::atomic::Ordering;

use tokenmill_backend::abi;
use tokenmill_policy::Params;

use crate::engine::Engine;
use crate::event::{Event, Failure, FinishReason, Output, TokenLogprob, Usage};
use crate::handle::{Command, RequestId};
use crate::history::History;
use crate::mix::mix;
use crate::request::Request;
use crate::requests::{Live, Particulars, Scores, Stop};
use crate::seen::Seen;
use crate::sequences::{Arrival, Rest, Sequence};

impl Engine {
    pub(crate) fn take_commands(&mut self) {
        if !self.shared.take(&mut self.inbox) {
            return;
        }
        let mut commands = std::mem::take(&mut self.inbox);
        for command in commands.drain(..) {
            match command {
                Command::Submit { id, request, output } => self.add(id, *request, output),
                Command::Cancel(id) => {
                    if let Some(request) = self.requests.find(id) {
                        self.cancel(request);
                    }
                }
                Command::EndBranch(id, branch) => self.end_branch(id, branch),
                Command::Install(named) => self.install(named),
                Command::Remove(name) => {
                    self.samplers.retire(&name);
                }
                Command::Schedule(scheduler) => self.scheduler = scheduler,
            }
        }
        self.inbox = commands;
        if self.shared.shutdown.load(Ordering::Acquire) {
            self.stop(&Failure::Shutdown);
        }
    }

    /// Fails requests that were queued and never taken in.
    pub(crate) fn refuse_commands(&mut self, failure: &Failure) {
        self.shared.take(&mut self.inbox);
        for command in self.inbox.drain(..) {
            if let Command::Submit { request, mut output, .. } = command {
                output.deliver(Event::Failed(failure));
                self.stats.finished.failed += 1;
                self.left_queue.0 += 1;
                self.left_queue.1 += request.prompt.len() as u64;
            }
        }
    }

    fn add(&mut self, id: RequestId, mut request: Request, output: Box<dyn Output>) {
        let prompt = std::mem::take(&mut request.prompt);
        let tokens = prompt.len() as u32;
        let limit = tokens.saturating_add(request.max_tokens).min(self.limits.max_model_len);
        let arrival = Arrival {
            pending: tokens,
            arrived_us: self.now_us,
            priority: request.priority,
            tenant: request.tenant,
            deadline_us: request.deadline_us.unwrap_or(u64::MAX),
            limit,
            prefix: prefix(&prompt, self.limits.block_tokens, request.tenant),
            special: request.n > 1 || request.prompt_logprobs.is_some() || request.max_tokens == 0,
            drafts: false,
        };
        let live = self.live(id, &mut request, &prompt, output);
        let arrival = Arrival { drafts: self.config.draft_tokens > 0 && !live.attends(), ..arrival };
        let adjusted = !live.rest.params.logit_bias.is_empty()
            || live.rest.min_tokens > 0
            || live.rest.params.penalises();
        let most = limit.min(self.limits.vocab) as usize;
        let listed: Option<&[u32]> = match &live.rest.params {
            params if !params.penalises() => None,
            params if params.repetition == 1.0 => Some(&[]),
            _ => Some(&prompt),
        };
        let seed = mix(self.config.seed, live.rest.params.seed);
        let slot = self.requests.add(live);
        let mut branches = Vec::with_capacity(request.n as usize);
        for branch in 0..request.n {
            let sequence = Sequence {
                request: slot,
                branch,
                prompt: tokens,
                limit,
                adjusted,
                penalised: listed.is_some(),
                rest: Box::new(Rest {
                    seed: mix(seed, u64::from(branch)),
                    seen: listed.map(|listed| Seen::with_prompt(listed, most)).unwrap_or_default(),
                    ..Rest::default()
                }),
                ..Sequence::default()
            };
            // The others begin when the first has computed the prompt.
            let first = branch == 0;
            let pending = if first { tokens } else { 0 };
            branches.push(
                self.sequences
                    .add(Arrival { pending, special: first && arrival.special, ..arrival }, sequence),
            );
        }
        self.sequences.slots[branches[0] as usize].tokens = History::new(prompt);
        if let Some(live) = self.requests.get(slot) {
            live.rest.dormant = branches[1..].to_vec();
            live.rest.branches = branches;
        }
    }

    fn live(&self, id: RequestId, request: &mut Request, prompt: &[u32], output: Box<dyn Output>) -> Live {
        let first = TokenLogprob { token: prompt[0], logprob: None, top: Vec::new() };
        let scores = |alternatives| Scores { alternatives, entries: vec![first] };
        let sampler = request.sampler.as_ref().and_then(|name| self.samplers.position(name));
        let rest = Particulars {
            id,
            started: false,
            row: row(&request.sampling),
            sampler,
            params: std::mem::take(&mut request.sampling),
            min_tokens: request.min_tokens,
            scores: request.prompt_logprobs.map(scores),
            branches: Vec::new(),
            dormant: Vec::new(),
            seats: 0,
            forks: if sampler.is_some() { request.max_branches.saturating_sub(request.n) } else { 0 },
            next_branch: request.n,
            salt: salt(request.tenant, request.cache_salt),
            arrived_us: self.now_us,
            usage: Usage { prompt_tokens: prompt.len() as u32, ..Usage::default() },
            attributes: std::mem::take(&mut request.attributes),
        };
        Live {
            output,
            stop: Stop::new(&request.stop_tokens),
            rest: Box::new(rest),
            generated: 0,
            logprobs: request.logprobs.unwrap_or(0),
        }
    }

    /// A branch whose receiver has no token yet is left alone: it has no text to stop at.
    fn end_branch(&mut self, id: RequestId, branch: u32) {
        let Some(live) = self.requests.find(id).and_then(|request| self.requests.peek(request)) else {
            return;
        };
        let is = |slot: &&u32| {
            let sequence = &self.sequences.slots[**slot as usize];
            let told =
                !self.in_flight.as_ref().is_some_and(|step| step.forks.iter().any(|fork| fork.is(sequence)));
            sequence.branch == branch && sequence.tokens.len() > sequence.prompt as usize && told
        };
        if let Some(&slot) = live.rest.branches.iter().find(is) {
            self.finish(slot, FinishReason::Ended);
        }
    }
}

/// The request's parameters as the device wants them.
fn row(params: &Params) -> abi::Row {
    abi::Row {
        temperature: params.temperature,
        top_p: params.top_p,
        min_p: params.min_p,
        repetition: params.repetition,
        presence: params.presence,
        frequency: params.frequency,
        top_k: params.top_k,
        ..abi::Row::default()
    }
}

/// The same for prompts that begin alike; no cache relies on it.
fn prefix(prompt: &[u32], block_tokens: u32, tenant: u64) -> u64 {
    let first = &prompt[..prompt.len().min(block_tokens as usize)];
    first.iter().fold(tenant, |hash, &token| mix(hash, u64::from(token)))
}

/// Whose prefixes a request may share.
fn salt(tenant: u64, cache_salt: u64) -> u64 {
    if tenant == 0 && cache_salt == 0 { 0 } else { mix(mix(1, tenant), cache_salt) }
}
