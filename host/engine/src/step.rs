//! The loop: one step is planned and submitted while the device runs the one before.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokenmill_backend::{Error, Waited};

use crate::batch::Step;
use crate::engine::{Engine, Progress};
use crate::event::Failure;

/// How long to wait for the device between two looks at `shutdown`.
const PATIENCE: Duration = Duration::from_millis(100);

impl Engine {
    /// Plans and submits step N+1, then waits for step N, samples N+1 and delivers N. `clock` gives
    /// microseconds that never fall; it is read when the step begins and when N is done.
    pub fn step(&mut self, mut clock: impl FnMut() -> u64) -> Progress {
        let now_us = clock();
        let since = if self.in_flight.is_some() { self.began_us } else { now_us };
        self.stats.step_us += now_us.saturating_sub(since);
        (self.began_us, self.now_us) = (now_us, now_us);
        self.take_commands();
        if self.stopped {
            return self.publish();
        }
        let mut previous = self.in_flight.take();
        if self.config.depth == 1 {
            self.complete(previous.take(), &mut clock);
        }
        self.plan(previous.as_ref().map_or(0, |previous| previous.serial));
        let mut next = self.submit(previous.as_ref());
        self.wait(&mut previous, &mut clock);
        self.sample(&mut next);
        self.deliver(&mut previous);
        self.recycle(previous);
        self.in_flight = next;
        self.publish()
    }

    /// Waits for a step and delivers it, with nothing behind it.
    fn complete(&mut self, mut step: Option<Step>, clock: impl FnMut() -> u64) {
        self.wait(&mut step, clock);
        self.deliver(&mut step);
        self.recycle(step);
    }

    /// Queues the forward pass of what was placed.
    fn submit(&mut self, previous: Option<&Step>) -> Option<Step> {
        let mut step = self.room.placed.take()?;
        debug_assert!(previous.is_none_or(|previous| previous.serial + 1 == step.serial));
        match self.model.submit(&self.columns.batch()) {
            Ok(ticket) => {
                self.columns.copies.clear();
                self.stats.steps += 1;
                self.stats.computed_tokens += u64::from(self.columns.n_tokens());
                step.ticket = Some(ticket);
                Some(step)
            }
            Err(error) => {
                self.fail_step(&step, error);
                self.recycle(Some(step));
                None
            }
        }
    }

    /// Waits until a step is done. Its sequences get their tokens at once if the next step's sampling may
    /// depend on them, else when they are delivered, while they are at hand.
    fn wait(&mut self, step: &mut Option<Step>, mut clock: impl FnMut() -> u64) {
        let Some(current) = step else { return };
        let Some(ticket) = current.ticket else { return };
        let waited = loop {
            match self.model.wait(ticket, PATIENCE, &mut current.tokens, &mut current.logprobs) {
                Ok(Waited::TimedOut) if self.shared.shutdown.load(Ordering::Acquire) => break Ok(()),
                Ok(Waited::TimedOut) => {}
                Ok(Waited::Done) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.now_us = clock();
        if let Err(error) = waited {
            let failed = step.take();
            if let Some(failed) = &failed {
                self.fail_step(failed, error);
            }
            self.recycle(failed);
            return;
        }
        self.verify(current);
        if self.requests.attentive > 0 {
            let sampled = current.tokens.iter().zip(&current.logprobs);
            for (row, (&token, &logprob)) in current.rows.iter().zip(sampled) {
                if let Some(sequence) = self.sequences.get(row.sequence) {
                    sequence.append(row.at, token, logprob);
                }
            }
        }
    }

    /// Queues the sampling of the step in flight.
    fn sample(&mut self, step: &mut Option<Step>) {
        let Some(current) = step else { return };
        let Some(ticket) = current.ticket else { return };
        self.fill_sampling(current);
        self.consult(current, ticket);
        if let Err(error) = self.model.sample(ticket, &self.sampling.sampling()) {
            let failed = step.take();
            if let Some(failed) = &failed {
                self.fail_step(failed, error);
            }
            self.recycle(failed);
        }
    }

    /// Ends a step's ticket and keeps its memory.
    fn recycle(&mut self, step: Option<Step>) {
        if let Some(mut step) = step {
            if let Some(ticket) = step.ticket {
                self.model.release(ticket);
            }
            step.clear();
            self.spare.push(step);
        }
    }

    /// A step failed on the device, and with it the requests that have a part in it.
    fn fail_step(&mut self, step: &Step, error: Error) {
        let failure = match error {
            Error::Lost(text) => {
                self.stats.lost = true;
                self.stop(&Failure::BackendLost(text));
                return;
            }
            Error::NoMemory(text) => Failure::NoMemory(text),
            error => Failure::Internal(error.to_string()),
        };
        for reference in step.rows.iter().map(|row| row.sequence).chain(step.silent.iter().copied()) {
            if let Some(request) = self.sequences.get(reference).map(|sequence| sequence.request) {
                self.fail(request, &failure);
            }
        }
    }

    /// Ends every request, for good.
    pub(crate) fn stop(&mut self, failure: &Failure) {
        self.stopped = true;
        self.shared.stopped.store(true, Ordering::Release);
        for request in self.requests.live() {
            self.fail(request, failure);
        }
        self.refuse_commands(failure);
    }

    /// Brings the shared counters up to date.
    pub(crate) fn publish(&mut self) -> Progress {
        let states = self.sequences.resident.iter().zip(&self.sequences.pending);
        let count = |(running, waiting), (&resident, &pending): (&u32, &u32)| {
            (running + u32::from(resident > 0), waiting + u32::from(resident == 0 && pending > 0))
        };
        let (running, waiting) = states.fold((0, 0), count);
        (self.stats.running, self.stats.waiting) = (u64::from(running), u64::from(waiting));
        let idle = self.in_flight.is_none() && self.requests.len() == 0;
        let blocks = &mut self.stats.blocks;
        blocks.total = u64::from(self.pool.total());
        blocks.used = u64::from(self.pool.used());
        blocks.cached = u64::from(self.pool.cached());
        blocks.free = blocks.total - blocks.used - blocks.cached;
        self.shared.publish(&self.stats, std::mem::take(&mut self.left_queue));
        if self.stopped || idle && self.shared.finished() {
            self.stop(&Failure::Shutdown);
            return Progress::Stopped;
        }
        match idle {
            true => Progress::Idle,
            false => Progress::Worked,
        }
    }
}
