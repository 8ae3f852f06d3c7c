//! The events of a job in order, as text per choice: what streaming and whole answers have in common.

use crate::app::Server;
use crate::caller::Caller;
use crate::choice::{Choice, End, Style};
use crate::error::ApiError;
use crate::generation::Generation;
use crate::job::Job;
use crate::logprobs::Scored;
use crate::queue::{Batch, Item, PromptToken};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

/// Events handled before the caller gets to write.
const AT_ONCE: usize = 512;

/// Takes what an answer consists of. `choice` counts through prompts, then branches.
pub(crate) trait Reader {
    /// A prompt is computed; its scores are empty unless they were asked for.
    fn prompt(&mut self, job: &Job, prompt: usize, scores: &[PromptToken], tally: Tally);
    /// A token and the text it lets out.
    fn token(&mut self, job: &Job, choice: usize, text: &str, token: &Scored<'_>, tally: Tally);
    /// A choice that begins with what another one has.
    fn fork(&mut self, choice: usize, parent: usize) -> Result<(), ApiError>;
    /// A choice is complete, with the last of its text.
    fn finish(&mut self, job: &Job, choice: usize, text: &str, end: &End, tally: Tally);
}

/// Tokens so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) prompt: u64,
    pub(crate) cached: u64,
    pub(crate) completion: u64,
}

pub(crate) struct Answer {
    pub(crate) server: Arc<Server>,
    pub(crate) job: Job,
    pub(crate) tally: Tally,
    generation: Generation,
    choices: Vec<Choice>,
    batch: Batch,
    /// Handled items and alternatives of `batch`.
    at: usize,
    top_at: usize,
    text: String,
    arrived: Instant,
    last: Option<Instant>,
}

impl Answer {
    /// Submits the job.
    pub(crate) fn start(server: Arc<Server>, job: Job, caller: &Caller) -> Result<Self, ApiError> {
        if server.draining() {
            return Err(ApiError::draining());
        }
        let generation = Generation::start(&server, &job, caller)?;
        let mut choices = Vec::with_capacity(job.prompts.len() * job.best_of as usize);
        for prompt in &job.prompts {
            let style = Style {
                tokenizer: server.app.tokenizer.as_ref(),
                prompt: &prompt.ids,
                stops: &job.common.stops,
                include_stop: job.common.include_stop,
                skip_special: job.common.skip_special,
            };
            choices.extend((0..job.best_of).map(|_| Choice::new(&style)));
        }
        let prompt = job.prompts.iter().map(|prompt| prompt.ids.len() as u64).sum();
        let tally = Tally { prompt, ..Tally::default() };
        let (batch, text) = (Batch::default(), String::new());
        Ok(Self {
            server,
            job,
            tally,
            generation,
            choices,
            batch,
            at: 0,
            top_at: 0,
            text,
            arrived: caller.arrived,
            last: None,
        })
    }

    /// Hands what has come to `reader`. Ready(true): the answer is complete.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut impl Reader,
    ) -> Poll<Result<bool, ApiError>> {
        if self.at == self.batch.items.len() {
            self.batch.clear();
            (self.at, self.top_at) = (0, 0);
            ready!(self.generation.poll_take(cx, &mut self.batch));
        }
        let mut tokens = 0;
        let until = self.batch.items.len().min(self.at + AT_ONCE);
        // The batch is out of `self` while its items borrow it.
        let batch = std::mem::take(&mut self.batch);
        let mut failure = None;
        for item in &batch.items[self.at..until] {
            match item {
                &Item::Token { choice, token, logprob, tops } => {
                    let top = &batch.tops[self.top_at..self.top_at + tops as usize];
                    self.top_at += tops as usize;
                    tokens += 1;
                    self.token(choice as usize, &Scored { token, logprob: Some(logprob), top }, reader);
                }
                Item::Prompt { prompt, cached_tokens, logprobs } => {
                    self.tally.cached += u64::from(*cached_tokens);
                    reader.prompt(&self.job, *prompt as usize, logprobs, self.tally);
                }
                &Item::Forked { choice, parent } => {
                    failure = failure.or(self.forked(choice as usize, parent as usize, reader).err());
                }
                &Item::Finished { choice, reason } => self.finished(choice as usize, reason, reader),
                Item::Done { prompt, usage } => {
                    self.server.metrics.queue_time.observe_us(usage.queue_us, 1);
                    self.generation.done(*prompt);
                }
                Item::Failed(cause) => failure = Some(ApiError::from(&**cause)),
            }
        }
        self.at = until;
        self.batch = batch;
        self.observe(tokens);
        match failure {
            Some(error) => {
                self.generation.failed();
                self.server.metrics.failed.add(1);
                Poll::Ready(Err(error))
            }
            None => Poll::Ready(Ok(self.complete())),
        }
    }

    fn token(&mut self, at: usize, scored: &Scored<'_>, reader: &mut impl Reader) {
        let choice = &mut self.choices[at];
        if choice.end.is_some() {
            return;
        }
        self.tally.completion += 1;
        self.text.clear();
        let is_stop = self.job.common.stop_tokens.contains(&scored.token);
        choice.push(scored.token, is_stop, &mut self.text);
        reader.token(&self.job, at, &self.text, scored, self.tally);
        if let Some(end) = &choice.end {
            reader.finish(&self.job, at, "", end, self.tally);
            self.generation.end_branch(at);
        }
    }

    fn forked(&mut self, at: usize, parent: usize, reader: &mut impl Reader) -> Result<(), ApiError> {
        let mut choice = self.choices[parent].clone();
        reader.fork(at, parent)?;
        if choice.end.is_some() {
            // The parent's text has met a stop string; with that the two are the same.
            choice.end = Some(End::Pruned);
            reader.finish(&self.job, at, "", &End::Pruned, self.tally);
            self.generation.end_branch(at);
        }
        if at >= self.choices.len() {
            self.choices.resize_with(at + 1, Choice::default);
        }
        self.choices[at] = choice;
        Ok(())
    }

    fn finished(&mut self, at: usize, reason: tokenmill_engine::FinishReason, reader: &mut impl Reader) {
        let choice = &mut self.choices[at];
        if choice.end.is_some() {
            return;
        }
        self.text.clear();
        choice.finish(reason, &self.server.app.card.end_tokens, &mut self.text);
        if let Some(end) = &choice.end {
            reader.finish(&self.job, at, &self.text, end, self.tally);
        }
    }

    fn complete(&self) -> bool {
        let done = self.generation.is_done() && self.at == self.batch.items.len();
        if done {
            let metrics = &self.server.metrics;
            metrics.request_time.observe(self.arrived.elapsed(), 1);
            let stopped = self.choices.iter().all(|choice| choice.end != Some(End::Length));
            if stopped { metrics.stopped.add(1) } else { metrics.cut.add(1) }
        }
        done
    }

    /// Time to the first token, and between tokens: what came in one wake-up shares its time evenly.
    fn observe(&mut self, tokens: u64) {
        if tokens == 0 {
            return;
        }
        let metrics = &self.server.metrics;
        let now = Instant::now();
        let (since, between) = match self.last {
            None => {
                metrics.first_token_time.observe(now - self.arrived, 1);
                (now, tokens - 1)
            }
            Some(last) => (last, tokens),
        };
        if between > 0 {
            metrics.token_time.observe((now - since) / between as u32, between);
        }
        self.last = Some(now);
    }
}
