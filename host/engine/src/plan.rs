//! What the next step computes: ask the scheduler, check its answer, fall back to the default.

use tokenmill_policy::Error;
use tokenmill_policy::schedule::{Attributes, Columns, Scheduler};

use crate::engine::Engine;
use crate::event::Failure;
use crate::requests::Requests;
use crate::sequences::{NONE, Sequences};

impl Engine {
    /// Fills the columns of the next step. `in_flight` is the serial of the step that the device runs, 0
    /// if none.
    pub(crate) fn plan(&mut self, in_flight: u32) {
        self.sequences.compact();
        if self.sequences.len() == 0 {
            return;
        }
        if !self.ask(false) {
            self.stats.policy_fallbacks.scheduler += 1;
            self.ask(true);
        }
        self.finished.clear();
        self.reject();
        self.place(in_flight);
        // No scheduler may let the engine stand still.
        if self.stands(in_flight) {
            self.stats.policy_fallbacks.scheduler += 1;
            // Who could not start then may have been in the way of others.
            self.room.tried = None;
            self.ask(true);
            self.place(in_flight);
        }
        // Not even the default does, where an earlier order let late prompts start: those in front of them get all
        // tokens, and no place.
        if self.stands(in_flight) {
            self.order_what_runs();
            self.place(in_flight);
        }
    }

    /// Nothing runs and nothing would.
    fn stands(&self, in_flight: u32) -> bool {
        in_flight == 0 && self.room.placed.is_none() && self.sequences.pending.iter().any(|&n| n > 0)
    }

    /// Whoever holds blocks goes on: the first of them has room when it is alone.
    fn order_what_runs(&mut self) {
        let states = self.sequences.resident.iter().zip(&self.sequences.pending).enumerate();
        let running = states.filter(|(_, (resident, pending))| **resident > 0 && **pending > 0);
        self.order.clear();
        running.for_each(|(i, (_, &pending))| self.order.run(&[i as u32], &[pending]));
        self.room.mark(&self.order, self.sequences.len());
    }

    /// Whether the scheduler, or the default, gave a valid order.
    fn ask(&mut self, default: bool) -> bool {
        let sequences = &self.sequences;
        let view = Columns {
            now_us: self.now_us,
            token_budget: self.config.max_batched_tokens,
            free_blocks: self.pool.available(),
            block_tokens: self.limits.block_tokens,
            free_seqs: self.config.max_seqs - self.room.seats,
            ids: &sequences.ids,
            pending: &sequences.pending,
            resident: &sequences.resident,
            generated: &sequences.generated,
            arrived_us: &sequences.arrived_us,
            priority: &sequences.priority,
            tenant: &sequences.tenant,
            deadline_us: &sequences.deadline_us,
            prefix: &sequences.prefix,
            finished: &self.finished,
            attributes: Some(&Fields { sequences, requests: &self.requests }),
        };
        self.order.clear();
        let scheduler: &mut dyn Scheduler = if default { &mut self.fallback } else { &mut *self.scheduler };
        if scheduler.plan(&view, &mut self.order).is_err() {
            return false;
        }
        let valid = self.room.mark(&self.order, sequences.len());
        if !valid {
            let why = "its order names a sequence that is unknown or listed twice, or has unequal columns";
            scheduler.refused(&Error::Undecided(why.into()));
        }
        valid
    }

    fn reject(&mut self) {
        for i in 0..self.order.rejected.len() {
            let own = self.sequences.own[self.order.rejected[i] as usize];
            if own.slot != NONE {
                let request = self.sequences.slots[own.slot as usize].request;
                self.fail(request, &Failure::Rejected);
            }
        }
    }
}

/// Looks up the fields of requests by index of a sequence.
struct Fields<'a> {
    sequences: &'a Sequences,
    requests: &'a Requests,
}

impl Attributes for Fields<'_> {
    fn attribute(&self, index: usize, key: &str) -> Option<&str> {
        let slot = self.sequences.own.get(index)?.slot;
        let live = self.requests.peek(self.sequences.slots.get(slot as usize)?.request)?;
        live.attribute(key)
    }
}
