//! What a step sampled goes to the receivers, and what is complete ends.

use crate::batch::{Row, Step};
use crate::engine::Engine;
use crate::event::{Event, Failure, FinishReason, TokenLogprob};
use crate::requests::{Live, prompt};

/// Scratch for the alternatives of one row.
#[derive(Default)]
pub(crate) struct Top {
    ids: Vec<u32>,
    logprobs: Vec<f32>,
    pub(crate) pairs: Vec<(u32, f32)>,
}

impl Engine {
    pub(crate) fn deliver(&mut self, step: &mut Option<Step>) {
        let Some(step) = step else { return };
        if step.tokens.len() < step.rows.len() {
            return; // Shut down before the device was done.
        }
        for &(reference, tokens) in &step.filled {
            let Some(sequence) = self.sequences.get(reference) else { continue };
            // A sequence that was preempted meanwhile has no blocks to remember.
            if sequence.rest.table.blocks().len() as u32 >= tokens / self.limits.block_tokens {
                self.pool.commit(&mut sequence.rest.table, &sequence.tokens.all()[..tokens as usize]);
            }
        }
        self.deliver_forks(step);
        for &(reference, reason) in &step.ended {
            if self.sequences.get(reference).is_some() {
                self.finish(reference.slot, reason);
            }
        }
        for nth in 0..step.rows.len() {
            if !self.pass_on(step, nth) {
                self.settle(step, nth);
            }
        }
        for &reference in &step.scored {
            let Some(request) = self.sequences.get(reference).map(|sequence| sequence.request) else {
                continue;
            };
            self.complete_prompt(request);
        }
    }

    /// Tells the prefix cache of the blocks that a sequence filled while it decoded, before it lets go of
    /// them. Nobody else could have used them earlier: its text was not complete.
    pub(crate) fn remember(&mut self, slot: u32) {
        let sequence = &mut self.sequences.slots[slot as usize];
        let index = sequence.rest.index as usize;
        let decoding = self.sequences.resident[index] > 0 && self.sequences.pending[index] <= 1;
        if decoding && self.config.prefix_caching && sequence.tokens.len() > sequence.prompt as usize {
            // The newest token's KV may belong to a step in flight.
            let tokens = sequence.tokens.all();
            self.pool.commit(&mut sequence.rest.table, &tokens[..tokens.len() - 1]);
        }
    }

    /// Passes a token on if that is all there is to do.
    fn pass_on(&mut self, step: &Step, nth: usize) -> bool {
        let Row { sequence: reference, at } = step.rows[nth];
        let Some(sequence) = self.sequences.get(reference) else { return true };
        sequence.append(at, step.tokens[nth], step.logprobs[nth]);
        let Ok(token) = u32::try_from(step.tokens[nth]) else { return false };
        let Some(live) = self.requests.get(sequence.request) else { return true };
        let ends = at + 1 >= sequence.limit || live.stop.contains(token);
        if ends || at < sequence.prompt || live.generated == 0 || live.logprobs > 0 {
            return false;
        }
        let logprob = step.logprobs[nth];
        live.generated += 1;
        self.stats.generated_tokens += 1;
        let event = Event::Token { branch: sequence.branch, token, logprob, top: &[] };
        if !live.output.deliver(event) {
            let request = sequence.request;
            self.cancel(request);
        }
        true
    }

    /// Does the rest: scores of the prompt, first and last tokens, alternatives.
    fn settle(&mut self, step: &Step, nth: usize) {
        let Row { sequence: reference, at } = step.rows[nth];
        let Some(sequence) = self.sequences.get(reference) else { return };
        let (branch, request) = (sequence.branch, sequence.request);
        if at < sequence.prompt {
            self.score(step, nth);
            return;
        }
        let last = at + 1 >= sequence.limit;
        let logprob = step.logprobs[nth];
        let Ok(token) = u32::try_from(step.tokens[nth]) else {
            self.fail(request, &Failure::Numerical);
            return;
        };
        let Some(live) = self.requests.get(request) else { return };
        let mut listening = live.generated > 0 || prompt(live, self.now_us);
        live.generated += 1;
        self.stats.generated_tokens += 1;
        let k = live.logprobs;
        if let Err(failure) = self.top(step, nth, k) {
            self.fail(request, &failure);
            return;
        }
        let top = &self.top.pairs;
        let Some(live) = self.requests.get(request) else { return };
        listening = listening && live.output.deliver(Event::Token { branch, token, logprob, top });
        if !listening {
            self.cancel(request);
        } else if live.stop.contains(token) {
            self.finish(reference.slot, FinishReason::Stop);
        } else if last {
            self.finish(reference.slot, FinishReason::Length);
        }
    }

    /// The next log-probability of a prompt.
    fn score(&mut self, step: &Step, nth: usize) {
        let Row { sequence: reference, at } = step.rows[nth];
        let Some(sequence) = self.sequences.get(reference) else { return };
        let (request, token) = (sequence.request, sequence.tokens.all()[at as usize]);
        let scores = self.requests.get(request).and_then(|live| live.rest.scores.as_mut());
        let Some(scores) = scores.filter(|scores| scores.entries.len() == at as usize) else { return };
        let k = scores.alternatives;
        if let Err(failure) = self.top(step, nth, k) {
            self.fail(request, &failure);
            return;
        }
        let entry = TokenLogprob { token, logprob: Some(step.logprobs[nth]), top: self.top.pairs.clone() };
        if let Some(scores) = self.requests.get(request).and_then(|live| live.rest.scores.as_mut()) {
            scores.entries.push(entry);
        }
    }

    /// Reads the most likely tokens of a row into `self.top`.
    pub(crate) fn top(&mut self, step: &Step, row: usize, k: u32) -> Result<(), Failure> {
        let Top { ids, logprobs, pairs } = &mut self.top;
        pairs.clear();
        let Some(ticket) = step.ticket.filter(|_| k > 0) else { return Ok(()) };
        self.model
            .top_k(ticket, row as u32, k, ids, logprobs)
            .map_err(|error| Failure::Internal(error.to_string()))?;
        pairs.extend(ids.iter().copied().zip(logprobs.iter().copied()));
        Ok(())
    }

    /// A request that wants nothing but its prompt.
    fn complete_prompt(&mut self, request: u32) {
        let Some(live) = self.requests.get(request) else { return };
        live.rest.dormant.clear();
        self.room.seats -= std::mem::take(&mut live.rest.seats);
        let branches = live.rest.branches.clone();
        if !prompt(live, self.now_us) {
            self.cancel(request);
            return;
        }
        for slot in branches {
            // The receiver may have gone in between, and the request with it.
            if self.requests.peek(request).is_some_and(|live| live.rest.branches.contains(&slot)) {
                self.finish(slot, FinishReason::Length);
            }
        }
    }

    /// Ends a branch, and its request with the last.
    pub(crate) fn finish(&mut self, slot: u32, reason: FinishReason) {
        self.remember(slot);
        let (branch, request) = self.remove_sequence(slot);
        self.stats.finished.count(reason);
        let Some(live) = self.requests.get(request) else { return };
        if live.output.deliver(Event::Finished { branch, reason }) {
            self.leave(request, slot);
        } else {
            live.rest.branches.retain(|&other| other != slot);
            self.cancel(request);
        }
    }

    /// A branch is gone, and its request with the last.
    pub(crate) fn leave(&mut self, request: u32, slot: u32) {
        let Some(live) = self.requests.get(request) else { return };
        live.rest.branches.retain(|&other| other != slot);
        if live.rest.branches.is_empty()
            && let Some(mut live) = self.requests.remove(request)
        {
            live.rest.usage.completion_tokens = live.generated;
            live.rest.usage.total_us = self.now_us.saturating_sub(live.rest.arrived_us);
            live.output.deliver(Event::Done(live.rest.usage));
        }
    }

    /// Ends a request without another word.
    pub(crate) fn cancel(&mut self, request: u32) {
        if self.remove_request(request).is_some() {
            self.stats.finished.cancelled += 1;
        }
    }

    pub(crate) fn fail(&mut self, request: u32, failure: &Failure) {
        if let Some(mut live) = self.remove_request(request) {
            self.stats.finished.failed += 1;
            live.output.deliver(Event::Failed(failure));
        }
    }

    fn remove_request(&mut self, request: u32) -> Option<Live> {
        let branches = std::mem::take(&mut self.requests.get(request)?.rest.branches);
        for slot in branches {
            self.remove_sequence(slot);
        }
        let live = self.requests.remove(request)?;
        self.room.seats -= live.rest.seats;
        if !live.rest.started {
            self.left_queue.0 += 1;
            self.left_queue.1 += u64::from(live.rest.usage.prompt_tokens);
        }
        Some(live)
    }

    /// Frees a sequence's blocks at once: later steps run after those in flight. Returns branch and request.
    pub(crate) fn remove_sequence(&mut self, slot: u32) -> (u32, u32) {
        self.vacate(slot, !self.sequences.slots[slot as usize].rest.retired);
        let sequence = &mut self.sequences.slots[slot as usize];
        let ended = (sequence.branch, sequence.request);
        self.pool.free(&mut sequence.rest.table);
        self.finished.push(sequence.id);
        if let Some(policy) = self.requests.peek(ended.1).and_then(|live| live.rest.sampler) {
            self.consultation.finished[policy].push(sequence.id);
        }
        self.sequences.remove(slot);
        ended
    }
}
