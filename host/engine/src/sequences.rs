//! All unfinished sequences.
//!
//! What every step touches lies in columns in order of arrival, which schedulers see as they are. The
//! rest of a sequence has a slot of its own, which stays the same while columns close up.

use tokenmill_kv::Table;

use crate::history::History;
use crate::seen::Seen;

pub(crate) const NONE: u32 = u32::MAX;

/// Columns and slots. An *index* is a place in the columns, until [`Sequences::compact`]; a *slot* is for
/// life, and is reused.
#[derive(Default)]
pub(crate) struct Sequences {
    pub(crate) ids: Vec<u64>,
    pub(crate) pending: Vec<u32>,
    /// Tokens computed, as far as steps are submitted.
    pub(crate) resident: Vec<u32>,
    pub(crate) generated: Vec<u32>,
    pub(crate) arrived_us: Vec<u64>,
    pub(crate) priority: Vec<i32>,
    pub(crate) tenant: Vec<u64>,
    pub(crate) deadline_us: Vec<u64>,
    /// Equal where prompts begin alike.
    pub(crate) prefix: Vec<u64>,
    /// The engine's own; no policy sees them.
    pub(crate) own: Vec<Own>,
    pub(crate) slots: Vec<Sequence>,
    spare: Vec<u32>,
    ended: usize,
    next: u64,
}

/// Hot state of a sequence beside what schedulers see.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Own {
    pub(crate) slot: u32,
    /// The low half of its id.
    pub(crate) id: u32,
    /// Tokens at most, the prompt's included.
    pub(crate) limit: u32,
    /// Tokens that its blocks can take without a call to the pool.
    pub(crate) covered: u32,
    /// Changes when its blocks so far do.
    pub(crate) epoch: u32,
    /// The step that samples its newest token, and the row there; the token itself is in `Sequence::tokens`
    /// once that step is accepted.
    pub(crate) step: u32,
    pub(crate) row: u32,
    /// Needs more than one row when its pending tokens are done, or none: see `Engine::push_special`.
    pub(crate) special: bool,
    /// Its next tokens may be guessed.
    pub(crate) drafts: bool,
}

/// One branch of a request. What every step touches comes first and fills two cache lines.
#[derive(Default)]
#[repr(C, align(64))]
pub(crate) struct Sequence {
    /// 0: the slot is free.
    pub(crate) id: u64,
    /// Slot of its request.
    pub(crate) request: u32,
    pub(crate) branch: u32,
    /// Tokens of the prompt.
    pub(crate) prompt: u32,
    /// Tokens at most, the prompt's included.
    pub(crate) limit: u32,
    /// Sum of the output's log-probabilities.
    pub(crate) score: f32,
    /// Penalties are kept in `seen`.
    pub(crate) penalised: bool,
    /// Rows need more than the request's parameters and a seed.
    pub(crate) adjusted: bool,
    pub(crate) rest: Box<Rest>,
    /// Prompt and output, as far as known.
    pub(crate) tokens: History,
}

/// What of a sequence is not touched in every step.
#[derive(Default)]
pub(crate) struct Rest {
    pub(crate) index: u32,
    pub(crate) table: Table,
    pub(crate) seed: u64,
    pub(crate) seen: Seen,
    /// Tokens that the sampling policy was told of.
    pub(crate) told: u32,
    /// A policy ended it with the step in flight: it holds no KV and has no pending tokens.
    pub(crate) retired: bool,
}

/// A sequence as steps in flight refer to it: it may have ended since, and its slot be reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) slot: u32,
    /// The low half of its id.
    pub(crate) id: u32,
}

/// What the columns say of a new sequence.
#[derive(Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) pending: u32,
    pub(crate) arrived_us: u64,
    pub(crate) priority: i32,
    pub(crate) tenant: u64,
    pub(crate) deadline_us: u64,
    pub(crate) prefix: u64,
    pub(crate) limit: u32,
    pub(crate) special: bool,
    pub(crate) drafts: bool,
}

impl Reference {
    /// No sequence.
    pub(crate) const NOBODY: Self = Self { slot: NONE, id: NONE };
}

impl Sequence {
    /// What a row sampled for position `at`, unless that is known already. A row may score the prompt.
    #[inline]
    pub(crate) fn append(&mut self, at: u32, token: i32, logprob: f32) {
        if at as usize == self.tokens.len() && token >= 0 {
            self.tokens.push(token as u32);
            self.score += logprob;
            if self.penalised {
                self.rest.seen.add(token as u32);
            }
        }
    }
}

impl Own {
    pub(crate) fn reference(&self) -> Reference {
        Reference { slot: self.slot, id: self.id }
    }
}

impl Sequences {
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Adds a sequence as the newest; returns its slot.
    pub(crate) fn add(&mut self, arrival: Arrival, mut sequence: Sequence) -> u32 {
        self.next += 1 + u64::from(self.next as u32 == u32::MAX);
        let slot = self.spare.pop().unwrap_or(self.slots.len() as u32);
        sequence.id = self.next;
        sequence.rest.index = self.len() as u32;
        self.ids.push(self.next);
        self.pending.push(arrival.pending);
        self.resident.push(0);
        self.generated.push(0);
        self.arrived_us.push(arrival.arrived_us);
        self.priority.push(arrival.priority);
        self.tenant.push(arrival.tenant);
        self.deadline_us.push(arrival.deadline_us);
        self.prefix.push(arrival.prefix);
        let Arrival { limit, special, drafts, .. } = arrival;
        self.own.push(Own {
            slot,
            id: self.next as u32,
            limit,
            covered: 0,
            epoch: 0,
            step: NONE,
            row: 0,
            special,
            drafts,
        });
        if slot as usize == self.slots.len() {
            self.slots.push(sequence);
        } else {
            self.slots[slot as usize] = sequence;
        }
        slot
    }

    /// What the columns say of a sequence.
    pub(crate) fn arrival(&self, index: usize) -> Arrival {
        let own = &self.own[index];
        Arrival {
            pending: self.pending[index],
            arrived_us: self.arrived_us[index],
            priority: self.priority[index],
            tenant: self.tenant[index],
            deadline_us: self.deadline_us[index],
            prefix: self.prefix[index],
            limit: own.limit,
            special: own.special,
            drafts: own.drafts,
        }
    }

    /// Adds a sequence behind another, with which it arrived; returns its slot. Indices change.
    pub(crate) fn add_behind(&mut self, index: usize, arrival: Arrival, sequence: Sequence) -> u32 {
        let slot = self.add(arrival, sequence);
        self.ids[index + 1..].rotate_right(1);
        self.pending[index + 1..].rotate_right(1);
        self.resident[index + 1..].rotate_right(1);
        self.generated[index + 1..].rotate_right(1);
        self.arrived_us[index + 1..].rotate_right(1);
        self.priority[index + 1..].rotate_right(1);
        self.tenant[index + 1..].rotate_right(1);
        self.deadline_us[index + 1..].rotate_right(1);
        self.prefix[index + 1..].rotate_right(1);
        self.own[index + 1..].rotate_right(1);
        for (index, own) in self.own.iter().enumerate().skip(index + 1) {
            if own.slot != NONE {
                self.slots[own.slot as usize].rest.index = index as u32;
            }
        }
        slot
    }

    /// Takes a sequence out, whose blocks are free already. Its place in the columns stays, with nothing pending, until they close up.
    pub(crate) fn remove(&mut self, slot: u32) {
        let sequence = &mut self.slots[slot as usize];
        sequence.id = 0;
        sequence.tokens = History::default();
        let index = sequence.rest.index as usize;
        self.own[index].slot = NONE;
        self.pending[index] = 0;
        self.resident[index] = 0;
        self.ended += 1;
        self.spare.push(slot);
    }

    /// Closes up the columns. Indices change; slots do not.
    pub(crate) fn compact(&mut self) {
        if std::mem::take(&mut self.ended) == 0 {
            return;
        }
        let mut to = 0;
        for from in 0..self.len() {
            let own = self.own[from];
            if own.slot == NONE {
                continue;
            }
            self.slots[own.slot as usize].rest.index = to as u32;
            self.own[to] = own;
            self.ids[to] = self.ids[from];
            self.pending[to] = self.pending[from];
            self.resident[to] = self.resident[from];
            self.generated[to] = self.generated[from];
            self.arrived_us[to] = self.arrived_us[from];
            self.priority[to] = self.priority[from];
            self.tenant[to] = self.tenant[from];
            self.deadline_us[to] = self.deadline_us[from];
            self.prefix[to] = self.prefix[from];
            to += 1;
        }
        self.own.truncate(to);
        self.ids.truncate(to);
        self.pending.truncate(to);
        self.resident.truncate(to);
        self.generated.truncate(to);
        self.arrived_us.truncate(to);
        self.priority.truncate(to);
        self.tenant.truncate(to);
        self.deadline_us.truncate(to);
        self.prefix.truncate(to);
    }

    /// The newest row of a sequence decides its next token.
    pub(crate) fn expect(&mut self, index: usize, step: u32, row: u32) {
        let own = &mut self.own[index];
        (own.step, own.row) = (step, row);
        self.generated[index] += 1;
        // Room for one token more after the one to come.
        self.pending[index] = u32::from(self.resident[index] + 1 < own.limit);
    }

    /// The token after the newest is known too, and its KV computed.
    pub(crate) fn advance(&mut self, index: usize) {
        self.resident[index] += 1;
        self.generated[index] += 1;
        self.pending[index] = u32::from(self.resident[index] + 1 < self.own[index].limit);
    }

    pub(crate) fn reference(&self, index: usize) -> Reference {
        self.own[index].reference()
    }

    /// The sequence, unless it ended.
    pub(crate) fn get(&mut self, reference: Reference) -> Option<&mut Sequence> {
        self.slots.get_mut(reference.slot as usize).filter(|sequence| sequence.id as u32 == reference.id)
    }

    /// Those that have not ended.
    pub(crate) fn live(&self) -> impl Iterator<Item = &Sequence> {
        self.slots.iter().filter(|sequence| sequence.id > 0)
    }

    /// Columns and slots agree.
    pub(crate) fn check(&self) -> Result<(), String> {
        let columns = self.own.iter().filter(|own| own.slot != NONE).count();
        if columns != self.live().count() {
            return Err(format!("{columns} sequences in columns, {} in slots", self.live().count()));
        }
        for sequence in self.live() {
            let index = sequence.rest.index as usize;
            if self.ids[index] != sequence.id {
                return Err(format!("sequence {} is not at its index", sequence.id));
            }
            let known = self.resident[index] + self.pending[index];
            if sequence.rest.table.blocks().is_empty() != (self.resident[index] == 0) {
                return Err(format!("sequence {}: blocks and resident tokens disagree", sequence.id));
            }
            if known > self.own[index].limit {
                return Err(format!("sequence {}: {known} tokens exceed its limit", sequence.id));
            }
        }
        Ok(())
    }
}
