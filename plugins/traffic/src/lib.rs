//! Runs a scheduling policy without a server, for tests: requests arrive, a step takes ten milliseconds, and
//! memory is no limit.
//!
//! Invariant: applies an order as the engine does, and panics where the engine would fall back on its default.
#![forbid(unsafe_code)]
#![allow(clippy::panic, clippy::unwrap_used, reason = "only tests use this, and a test fails by panicking")]

use tokenmill_policy::{
    Scheduler,
    schedule::{Columns, Order},
};

const STEP_US: u64 = 10_000;
const BLOCK_TOKENS: u32 = 16;

/// What one request brings.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub prompt: u32,
    /// Output tokens.
    pub output: u32,
    pub priority: i32,
    pub tenant: u64,
    pub prefix: u64,
    /// From its arrival on, in microseconds.
    pub deadline_us: Option<u64>,
}

impl Default for Arrival {
    fn default() -> Self {
        Self { prompt: 64, output: 16, priority: 0, tenant: 0, prefix: 0, deadline_us: None }
    }
}

/// A server's sequences, column by column.
#[derive(Default)]
pub struct Traffic {
    pub budget: u32,
    pub seats: u32,
    now_us: u64,
    last_id: u64,
    ids: Vec<u64>,
    pending: Vec<u32>,
    resident: Vec<u32>,
    generated: Vec<u32>,
    arrived_us: Vec<u64>,
    priority: Vec<i32>,
    tenant: Vec<u64>,
    deadline_us: Vec<u64>,
    prefix: Vec<u64>,
    output: Vec<u32>,
    finished: Vec<u64>,
    /// Prefixes of which a prompt was computed: from the next step on, others begin with one block
    /// less to do.
    cached: Vec<u64>,
    /// Those of this step.
    fresh: Vec<u64>,
    /// Tokens computed, by tenant.
    served: Vec<(u64, Served)>,
    pub prefix_hits: u32,
}

/// What a tenant got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    pub input: u64,
    pub output: u64,
}

impl Traffic {
    pub fn new(budget: u32, seats: u32) -> Self {
        Self { budget, seats, ..Self::default() }
    }

    pub fn now_us(&self) -> u64 {
        self.now_us
    }

    /// A request arrives; returns the id of its sequence.
    pub fn arrive(&mut self, arrival: Arrival) -> u64 {
        self.last_id += 1;
        self.ids.push(self.last_id);
        self.pending.push(arrival.prompt);
        self.resident.push(0);
        self.generated.push(0);
        self.arrived_us.push(self.now_us);
        self.priority.push(arrival.priority);
        self.tenant.push(arrival.tenant);
        self.deadline_us.push(arrival.deadline_us.map_or(u64::MAX, |after| self.now_us + after));
        self.prefix.push(arrival.prefix);
        self.output.push(arrival.output);
        self.last_id
    }

    /// Whether a sequence has yet to start; none if it has ended.
    pub fn waits(&self, id: u64) -> Option<bool> {
        Some(self.resident[self.ids.iter().position(|one| *one == id)?] == 0)
    }

    /// Output tokens of a sequence so far; none if it has ended.
    pub fn generated(&self, id: u64) -> Option<u32> {
        Some(self.generated[self.ids.iter().position(|one| *one == id)?])
    }

    pub fn unfinished(&self) -> usize {
        self.ids.len()
    }

    /// Tokens that `tenant` got.
    pub fn served(&self, tenant: u64) -> Served {
        self.served.iter().find(|(one, _)| *one == tenant).map_or(Served::default(), |(_, served)| *served)
    }

    /// The policy's order for the state as it is, not applied.
    pub fn plan(&self, policy: &mut dyn Scheduler) -> Vec<(u32, u32)> {
        let running = self.resident.iter().filter(|&&resident| resident > 0).count() as u32;
        let view = Columns {
            now_us: self.now_us,
            token_budget: self.budget,
            free_blocks: u32::MAX,
            block_tokens: BLOCK_TOKENS,
            free_seqs: self.seats - running,
            ids: &self.ids,
            pending: &self.pending,
            resident: &self.resident,
            generated: &self.generated,
            arrived_us: &self.arrived_us,
            priority: &self.priority,
            tenant: &self.tenant,
            deadline_us: &self.deadline_us,
            prefix: &self.prefix,
            finished: &self.finished,
            attributes: None,
        };
        let mut order = Order::default();
        policy.plan(&view, &mut order).unwrap();
        assert!(order.rejected.is_empty());
        order.indices.into_iter().zip(order.tokens).collect()
    }

    /// One step; returns the ids of those that got tokens, with how many.
    pub fn step(&mut self, policy: &mut dyn Scheduler) -> Vec<(u64, u32)> {
        let order = self.plan(policy);
        self.finished.clear();
        let mut left = self.budget;
        let mut seen = vec![false; self.ids.len()];
        let mut done = Vec::new();
        for (i, tokens) in order {
            let i = i as usize;
            assert!(!std::mem::replace(&mut seen[i], true), "a sequence is listed twice");
            let starts = self.resident[i] == 0;
            let running = self.resident.iter().filter(|&&resident| resident > 0).count() as u32;
            if left == 0 || tokens == 0 || (starts && running == self.seats) {
                continue;
            }
            if starts && self.cached.contains(&self.prefix[i]) && self.pending[i] > BLOCK_TOKENS {
                self.prefix_hits += 1;
                self.resident[i] = BLOCK_TOKENS;
                self.pending[i] -= BLOCK_TOKENS;
            }
            let tokens = tokens.min(left).min(self.pending[i]);
            left -= tokens;
            self.compute(i, tokens);
            done.push((self.ids[i], tokens));
        }
        self.now_us += STEP_US;
        self.cached.append(&mut self.fresh);
        self.retire();
        done
    }

    fn compute(&mut self, i: usize, tokens: u32) {
        let decoded = self.generated[i] > 0;
        self.resident[i] += tokens;
        self.pending[i] -= tokens;
        let tenant = self.tenant[i];
        if !self.served.iter().any(|(one, _)| *one == tenant) {
            self.served.push((tenant, Served::default()));
        }
        for (_, served) in self.served.iter_mut().filter(|(one, _)| *one == tenant) {
            served.input += if decoded { 0 } else { u64::from(tokens) };
            served.output += u64::from(self.pending[i] == 0);
        }
        if self.pending[i] == 0 {
            if self.generated[i] == 0 {
                self.fresh.push(self.prefix[i]);
            }
            self.generated[i] += 1;
            self.pending[i] = u32::from(self.generated[i] < self.output[i]);
        }
    }

    /// Takes out the sequences that have all their tokens.
    fn retire(&mut self) {
        for i in (0..self.ids.len()).rev() {
            if self.pending[i] == 0 {
                self.finished.push(self.ids.remove(i));
                self.pending.remove(i);
                self.resident.remove(i);
                self.generated.remove(i);
                self.arrived_us.remove(i);
                self.priority.remove(i);
                self.tenant.remove(i);
                self.deadline_us.remove(i);
                self.prefix.remove(i);
                self.output.remove(i);
            }
        }
    }
}
