//! From an order to the lanes of a step: blocks for each sequence, or somebody else's, or none.

use crate::batch::{Row, Step};
use crate::engine::Engine;
use crate::sequences::Sequences;

impl Engine {
    /// Gives each sequence of the order its tokens, as far as tokens, rows, seats and blocks go.
    pub(crate) fn place(&mut self, in_flight: u32) {
        let Some(mut step) = self.spare.pop() else { return };
        step.serial = self.serial.wrapping_add(1).max(1);
        self.columns.clear();
        self.room.new_step(in_flight);
        if self.config.draft_tokens > 0 {
            self.room.drafts = self.room_for_drafts();
        }
        self.prefetch_tables();
        for k in 0..self.order.indices.len() {
            let (i, tokens) = (self.order.indices[k] as usize, self.order.tokens[k]);
            if tokens > 0 && !self.continues(&mut step, i) {
                self.place_anew(&mut step, k, i, tokens);
            }
        }
        if self.columns.is_empty() {
            self.spare.push(step);
        } else {
            self.serial = step.serial;
            self.room.placed = Some(step);
        }
    }

    /// Asks the memory for the block tables that are about to grow, at the same time: with thousands of
    /// sequences each is a page that was not touched for long.
    fn prefetch_tables(&self) {
        let Sequences { own, resident, slots, .. } = &self.sequences;
        let full = own.iter().zip(resident).filter(|(own, resident)| own.covered == **resident);
        let last = full.map(|(own, _)| slots.get(own.slot as usize)?.rest.table.blocks().last());
        std::hint::black_box(last.flatten().fold(0, |all, block| all ^ block));
    }

    /// Places a sequence that goes on as in the step before: the token sampled there, in the same lane,
    /// into a block that it has. False if anything is different.
    #[inline(always)]
    fn continues(&mut self, step: &mut Step, i: usize) -> bool {
        let Self { sequences, columns, room, .. } = self;
        let own = &mut sequences.own[i];
        let from = sequences.resident[i];
        let steady =
            sequences.pending[i] == 1 && own.step == room.in_flight && from < own.covered && !own.special;
        if !steady || room.tokens == 0 || room.rows(columns.n_rows()) == 0 {
            return false;
        }
        let block = from >> room.block_shift;
        let Some(row) = columns.continue_lane((own.slot, own.epoch), from, block, -1 - own.row as i32) else {
            return false;
        };
        room.tokens -= 1;
        let to = from + 1;
        let sequence = own.reference();
        step.rows.push(Row { sequence, at: to });
        (own.step, own.row) = (step.serial, row);
        sequences.pending[i] = u32::from(to + 1 < own.limit);
        sequences.resident[i] = to;
        sequences.generated[i] += 1;
        true
    }

    /// Places a sequence, whatever that takes.
    fn place_anew(&mut self, step: &mut Step, k: usize, i: usize, tokens: u32) {
        let wanted = tokens.min(self.sequences.pending[i]).min(self.room.tokens);
        // A branch that began with this step has its row already, and an order may list it all the same.
        let began = self.sequences.own[i].step == step.serial;
        if wanted == 0 || began || self.columns.seqs() == self.config.max_seqs {
            return;
        }
        let rows = self.room.rows(self.columns.n_rows());
        if rows < self.rows_at_end(i) || (self.sequences.resident[i] == 0 && !self.start(k, i)) {
            return;
        }
        let wanted = wanted.min(self.sequences.pending[i]).min(self.scorable(k, i, rows));
        let to = self.sequences.resident[i] + wanted;
        if to <= self.sequences.own[i].covered || self.grow(k, i, to) {
            if self.room.drafts > 0 && wanted == self.sequences.pending[i] {
                self.guess(k, i, to);
            }
            self.room.tokens -= wanted + self.guesses.len() as u32;
            self.push(step, i, wanted);
            self.guesses.clear();
        }
    }

    /// Adds a lane of `n` tokens, with rows if it has no more pending.
    fn push(&mut self, step: &mut Step, i: usize, n: u32) {
        let own = &self.sequences.own[i];
        let reference = own.reference();
        let special = own.special;
        let from = self.sequences.resident[i];
        let to = from + n;
        let first = self.columns.n_tokens();
        if self.sequences.pending[i] == 1 && own.step == self.room.in_flight {
            self.columns.push_token(-1 - own.row as i32);
        } else {
            let tokens = self.sequences.slots[own.slot as usize].tokens.all();
            // Only the newest token can be one that the device has not told yet.
            let known = tokens.len().min(to as usize);
            tokens[from as usize..known].iter().for_each(|&token| self.columns.push_token(token as i32));
            if known < to as usize {
                self.columns.push_token(-1 - own.row as i32);
            }
        }
        self.guesses.iter().for_each(|&guess| self.columns.push_token(guess as i32));
        let slots = &self.sequences.slots;
        let shift = self.room.block_shift;
        self.columns.push_lane(
            (own.slot, own.epoch),
            from,
            own.covered >> shift,
            self.room.max_blocks,
            || slots[own.slot as usize].rest.table.blocks(),
        );
        if n > 1 && self.config.prefix_caching && from >> shift != to >> shift {
            step.filled.push((reference, to));
        }
        self.sequences.resident[i] = to;
        self.sequences.pending[i] -= n;
        if special {
            self.push_special(step, i, from, first);
            step.silent.push(reference);
        } else if self.sequences.pending[i] == 0 {
            let row = self.columns.push_row(first + n - 1);
            step.rows.push(Row { sequence: reference, at: to });
            self.sequences.expect(i, step.serial, row);
            self.push_guesses(step, reference, first + n - 1, to);
        } else {
            step.silent.push(reference);
        }
    }

    /// Makes `i` own blocks for the positions up to `to`; whoever comes after place `k` of the order
    /// may be preempted for it.
    pub(crate) fn grow(&mut self, k: usize, i: usize, to: u32) -> bool {
        let own = self.sequences.own[i];
        let from = self.sequences.resident[i];
        loop {
            let copies = self.columns.copies.len();
            let table = &mut self.sequences.slots[own.slot as usize].rest.table;
            let extended = self.pool.extend(table, from, to, &mut self.columns.copies);
            let copied = self.columns.copies.len() > copies;
            if copied || own.covered == 0 {
                self.sequences.own[i].epoch = self.room.epoch();
            }
            if extended.is_ok() {
                let blocks = self.sequences.slots[own.slot as usize].rest.table.blocks().len() as u32;
                self.sequences.own[i].covered = blocks * self.limits.block_tokens;
                return true;
            }
            let Some(victim) = self.victim(k) else { return false };
            self.preempt(victim);
        }
    }

    /// The running sequence that comes last, after place `k` of the order: first those it does not list.
    fn victim(&self, k: usize) -> Option<usize> {
        let runs = |&i: &usize| self.sequences.resident[i] > 0;
        let unlisted = (0..self.sequences.len()).rev().filter(|&i| !self.room.listed(i)).find(runs);
        unlisted.or_else(|| self.order.indices[k + 1..].iter().rev().map(|&i| i as usize).find(runs))
    }

    /// Takes a sequence's blocks. It computes its tokens again when it starts anew.
    fn preempt(&mut self, i: usize) {
        let slot = self.sequences.own[i].slot;
        self.remember(slot);
        let sequence = &mut self.sequences.slots[slot as usize];
        self.pool.free(&mut sequence.rest.table);
        // One that only waits for its last token needs no blocks any more.
        if self.sequences.pending[i] > 0 {
            self.sequences.pending[i] += self.sequences.resident[i];
            self.stats.preemptions += 1;
        }
        self.vacate(slot, false);
        self.room.blocked = true;
    }

    /// Lets a sequence that holds nothing begin, or begin again: what the prefix cache knows of it, and
    /// blocks for the rest of its tokens.
    fn start(&mut self, k: usize, i: usize) -> bool {
        let own = self.sequences.own[i];
        let known = self.sequences.pending[i];
        let keep = self.seats_to_keep(self.sequences.slots[own.slot as usize].request);
        let sequence = &mut self.sequences.slots[own.slot as usize];
        let Some(live) = self.requests.get(sequence.request) else { return false };
        let again = (sequence.id, self.pool.available());
        let hopeless = self.room.tried.is_some_and(|(id, blocks)| id == again.0 && blocks >= again.1);
        if self.room.blocked || hopeless || !self.room.has_seats(1 + keep) {
            self.room.blocked = true;
            return false;
        }
        // At least one token is computed, and all whose scores are asked for.
        let scored = live.rest.scores.as_ref().map_or(known, |scores| scores.entries.len() as u32);
        let cacheable =
            if self.config.prefix_caching { (known.min(scored) as usize).saturating_sub(1) } else { 0 };
        let hits =
            self.pool.adopt(&mut sequence.rest.table, live.rest.salt, &sequence.tokens.all()[..cacheable]);
        if !self.claim(k, i, known) {
            self.pool.free(&mut self.sequences.slots[own.slot as usize].rest.table);
            (self.room.blocked, self.room.tried) = (true, Some(again));
            return false;
        }
        let sequence = &mut self.sequences.slots[own.slot as usize];
        let Some(live) = self.requests.get(sequence.request) else { return false };
        self.room.seats += 1 + keep;
        live.rest.seats += keep;
        sequence.tokens.reserve(own.limit as usize);
        sequence.rest.table.reserve(self.pool.blocks_for(own.limit) as usize);
        self.sequences.resident[i] = hits;
        self.sequences.pending[i] = known - hits;
        self.stats.prefix_queries += cacheable as u64;
        self.stats.prefix_hits += u64::from(hits);
        if !std::mem::replace(&mut live.rest.started, true) {
            live.rest.usage.cached_tokens = hits;
            live.rest.usage.queue_us = self.now_us.saturating_sub(live.rest.arrived_us);
            self.stats.prompt_tokens += u64::from(sequence.prompt);
            self.left_queue.0 += 1;
            self.left_queue.1 += u64::from(sequence.prompt);
        }
        true
    }

    /// Blocks for all known tokens of a sequence that starts, with some to spare for those that run.
    fn claim(&mut self, k: usize, i: usize, known: u32) -> bool {
        let own = self.sequences.own[i];
        let table = &mut self.sequences.slots[own.slot as usize].rest.table;
        let have = table.blocks().len() as u32;
        let need = self.pool.blocks_for(known.saturating_add(1).min(own.limit)) - have;
        while self.pool.available() < need + self.room.reserve() {
            // A scheduler may put a newcomer before those that run.
            let Some(victim) = self.victim(k) else { return false };
            self.preempt(victim);
        }
        let from = have * self.limits.block_tokens;
        let table = &mut self.sequences.slots[own.slot as usize].rest.table;
        if self.pool.extend(table, from, known, &mut self.columns.copies).is_err() {
            return false;
        }
        let blocks = table.blocks().len() as u32;
        let own = &mut self.sequences.own[i];
        own.covered = blocks * self.limits.block_tokens;
        own.epoch = self.room.epoch();
        true
    }
}
