//! A sampling policy decides which branches a request has: inspected rows go on, fork, or end.
//!
//! A fork takes over what its parent has computed, in the same blocks: whoever writes first copies the last
//! one. It goes on with a token of its own, which the next step computes while the step that decided it is
//! not delivered yet; so the receiver hears of it one step later, in [`Engine::deliver`].

use tokenmill_kv::Table;
use tokenmill_policy::Error;
use tokenmill_policy::sample::{Choices, Logits};

use crate::batch::{Row, Step};
use crate::engine::Engine;
use crate::event::{Event, Failure, FinishReason};
use crate::history::History;
use crate::mix::mix;
use crate::requests::prompt;
use crate::sequences::{Arrival, Reference, Rest, Sequence};

/// A branch that a step began.
pub(crate) struct Fork {
    parent: Reference,
    branch: u32,
    /// Row of the step that decided its token.
    nth: u32,
    token: u32,
    logprob: f32,
    /// None: it ends with this token and needs no KV.
    child: Option<Reference>,
    reason: FinishReason,
}

impl Fork {
    /// Whether it began this sequence.
    pub(crate) fn is(&self, sequence: &Sequence) -> bool {
        self.child.is_some_and(|child| child.id == sequence.id as u32)
    }
}

/// The accepted tokens that fork: all but the first of their row.
pub(crate) fn extra(choices: &Choices) -> impl Iterator<Item = (u32, u32)> + '_ {
    let first = |nth: usize, row: u32| !choices.accept[..nth].iter().any(|accepted| accepted.0 == row);
    choices.accept.iter().enumerate().filter(move |(nth, (row, _))| !first(*nth, *row)).map(|(_, &pair)| pair)
}

/// The log-probability of each token that forks, by the raw logits.
pub(crate) fn score(
    logits: &mut dyn Logits,
    choices: &Choices,
    logprobs: &mut Vec<f32>,
) -> Result<(), Error> {
    for (row, token) in extra(choices) {
        logprobs.extend(logits.gather(row, &[token])?);
    }
    Ok(())
}

impl Engine {
    /// Applies the choices for inspected rows. Branches that end here make room for those that begin.
    pub(crate) fn branch_out(&mut self, step: &mut Step) {
        let retired = self.retire_unlisted(step);
        let view = &mut self.consultation;
        let forks: Vec<_> = extra(&view.choices).zip(view.logprobs.drain(..)).collect();
        for ((row, token), logprob) in forks {
            let nth = self.consultation.rows[row as usize];
            self.fork(step, nth, token, logprob);
        }
        // Only now: forks share the blocks of parents that end.
        for slot in retired {
            self.pool.free(&mut self.sequences.slots[slot as usize].rest.table);
        }
    }

    /// Retires the branches whose inspected rows are not accepted, or accepted with a stop token.
    fn retire_unlisted(&mut self, step: &mut Step) -> Vec<u32> {
        let mut retired = Vec::new();
        for nth in 0..self.consultation.knobs.inspect.len() {
            let view = &self.consultation;
            let (row, choices) = (view.knobs.inspect[nth], &view.choices);
            let accepted =
                choices.accept.iter().find(|accepted| accepted.0 == row).map(|accepted| accepted.1);
            let left = choices.defer.contains(&row) || choices.undecided.contains(&row);
            if accepted.is_none() && left {
                continue;
            }
            let finish = choices.finish.contains(&row);
            let reason = if finish { FinishReason::Ended } else { FinishReason::Pruned };
            let reference = step.rows[view.rows[row as usize] as usize].sequence;
            let Some(sequence) = self.sequences.get(reference).filter(|sequence| !sequence.rest.retired)
            else {
                continue;
            };
            let live = self.requests.get(sequence.request);
            let goes_on = accepted.is_some_and(|token| live.is_some_and(|live| !live.stop.contains(token)));
            if goes_on {
                continue;
            }
            if accepted.is_none() {
                step.ended.push((reference, reason));
            }
            self.retire(reference.slot);
            retired.push(reference.slot);
        }
        retired
    }

    /// A branch that ends when the step is delivered holds no seat any more; its blocks are the caller's.
    fn retire(&mut self, slot: u32) {
        self.remember(slot);
        self.vacate(slot, true);
        let rest = &mut self.sequences.slots[slot as usize].rest;
        rest.retired = true;
        self.sequences.pending[rest.index as usize] = 0;
    }

    /// Begins a branch with row `nth`'s sequence so far and one token more, if the request may have it.
    fn fork(&mut self, step: &mut Step, nth: u32, token: u32, logprob: f32) {
        let Row { sequence: parent, at } = step.rows[nth as usize];
        let Some(sequence) = self.sequences.get(parent) else { return };
        let Some(live) = self.requests.get(sequence.request) else { return };
        let stops = live.stop.contains(token);
        let ends = stops || at + 1 >= sequence.limit;
        if !ends && live.rest.forks == 0 {
            self.stats.forks_refused += 1;
            return;
        }
        let branch = live.rest.next_branch;
        live.rest.next_branch += 1;
        let child = (!ends).then(|| self.begin(parent, at, branch, token, logprob));
        let reason = if stops { FinishReason::Stop } else { FinishReason::Length };
        step.forks.push(Fork { parent, branch, nth, token, logprob, child, reason });
    }

    /// A sequence with the first `at` tokens of another and one of its own.
    fn begin(&mut self, parent: Reference, at: u32, branch: u32, token: u32, logprob: f32) -> Reference {
        let from = &self.sequences.slots[parent.slot as usize];
        // It may have been preempted by a sequence that was placed after it in this step.
        let computed = !from.rest.table.blocks().is_empty();
        let seated = self.seat_fork(from.request, computed);
        let from = &mut self.sequences.slots[parent.slot as usize];
        let mut known = from.tokens.all()[..at as usize].to_vec();
        known.reserve_exact((from.limit - at) as usize);
        known.push(token);
        // Without a seat it waits as if it had been preempted.
        let mut table = if seated { self.pool.fork(&mut from.rest.table) } else { Table::default() };
        table.reserve(self.pool.blocks_for(from.limit) as usize);
        let mut seen = from.rest.seen.clone();
        if from.penalised {
            seen.add(token);
        }
        let rest = Rest { table, seen, seed: mix(from.rest.seed, u64::from(branch)), ..Rest::default() };
        let child = Sequence {
            request: from.request,
            branch,
            prompt: from.prompt,
            limit: from.limit,
            score: from.score + logprob,
            penalised: from.penalised,
            adjusted: from.adjusted,
            rest: Box::new(rest),
            tokens: History::new(known),
            ..Sequence::default()
        };
        let (request, i) = (from.request, from.rest.index as usize);
        if seated {
            // It must look for a shared block before it writes; the child's own count is 0 already.
            self.sequences.own[i].covered = 0;
        }
        let (resident, pending) = if seated { (at, 1) } else { (0, at + 1) };
        let arrival = Arrival { pending, special: false, ..self.sequences.arrival(i) };
        let slot = self.sequences.add_behind(i, arrival, child);
        let j = self.sequences.slots[slot as usize].rest.index as usize;
        self.sequences.resident[j] = resident;
        self.sequences.generated[j] = at + 1 - self.sequences.slots[slot as usize].prompt;
        if let Some(live) = self.requests.get(request) {
            live.rest.branches.push(slot);
        }
        self.sequences.reference(j)
    }

    /// Tells receivers of the branches that a step began.
    pub(crate) fn deliver_forks(&mut self, step: &Step) {
        for fork in &step.forks {
            let Some(sequence) = self.sequences.get(fork.parent) else {
                self.drop_fork(fork);
                continue;
            };
            let (request, parent) = (sequence.request, sequence.branch);
            match self.deliver_fork(step, fork, request, parent) {
                Ok(true) => {}
                Ok(false) => self.cancel(request),
                Err(failure) => self.fail(request, &failure),
            }
        }
    }

    /// Whether the receiver is still there.
    fn deliver_fork(&mut self, step: &Step, fork: &Fork, request: u32, parent: u32) -> Result<bool, Failure> {
        let &Fork { branch, nth, token, logprob, .. } = fork;
        if logprob.is_nan() {
            return Err(Failure::Numerical);
        }
        let Some(live) = self.requests.get(request) else { return Ok(true) };
        let k = live.logprobs;
        let mut listening = live.generated > 0 || prompt(live, self.now_us);
        live.generated += 1;
        self.stats.generated_tokens += 1;
        self.top(step, nth as usize, k)?;
        let Some(live) = self.requests.get(request) else { return Ok(true) };
        listening = listening && live.output.deliver(Event::Forked { branch, parent });
        let top = &self.top.pairs;
        listening = listening && live.output.deliver(Event::Token { branch, token, logprob, top });
        if fork.child.is_none() {
            self.stats.finished.count(fork.reason);
            listening = listening && live.output.deliver(Event::Finished { branch, reason: fork.reason });
        }
        Ok(listening)
    }

    /// The parent was ended before its receiver heard of the fork, which has all of the parent's text.
    fn drop_fork(&mut self, fork: &Fork) {
        let Some(child) = fork.child else { return };
        if self.sequences.get(child).is_some() {
            let (_, request) = self.remove_sequence(child.slot);
            self.leave(request, child.slot);
        }
    }
}
