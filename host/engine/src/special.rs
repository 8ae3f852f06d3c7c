//! Prompts that end in more than one row, or in none: forks, scores, and prompts without an output.

use crate::batch::{Row, Step};
use crate::engine::Engine;
use crate::history::History;

impl Engine {
    /// Rows that a sequence must have when its pending tokens are done.
    pub(crate) fn rows_at_end(&self, i: usize) -> u32 {
        let own = self.sequences.own[i];
        if !own.special {
            return 1;
        }
        let request = self.sequences.slots[own.slot as usize].request;
        1 + self.requests.peek(request).map_or(0, |live| live.rest.dormant.len() as u32)
    }

    /// Tokens that a sequence can compute with so many rows left: every token of a prompt that is scored
    /// takes one, and each sequence later in the order keeps one.
    pub(crate) fn scorable(&self, k: usize, i: usize, rows: u32) -> u32 {
        let own = self.sequences.own[i];
        if !own.special {
            return u32::MAX;
        }
        let request = self.sequences.slots[own.slot as usize].request;
        let Some(live) = self.requests.peek(request).filter(|live| live.rest.scores.is_some()) else {
            return u32::MAX;
        };
        let later = (self.order.indices.len() - 1 - k) as u32;
        rows.saturating_sub(live.rest.dormant.len() as u32).saturating_sub(later).max(1)
    }

    /// Rows of a lane that begins at position `from` with token `first` of the step.
    pub(crate) fn push_special(&mut self, step: &mut Step, i: usize, from: u32, first: u32) {
        let own = self.sequences.own[i];
        let sequence = self.sequences.reference(i);
        let to = self.sequences.resident[i];
        let (prompt, request) = {
            let sequence = &self.sequences.slots[own.slot as usize];
            (sequence.prompt, sequence.request)
        };
        let Some(live) = self.requests.get(request) else { return };
        if let Some(scores) = &live.rest.scores {
            let unscored = scores.entries.len() as u32;
            for at in (from + 1).max(unscored)..(to + 1).min(prompt) {
                self.columns.push_row(first + at - 1 - from);
                step.rows.push(Row { sequence, at });
            }
        }
        if self.sequences.pending[i] > 0 {
            return;
        }
        if to == own.limit {
            step.scored.push(sequence);
            return;
        }
        let last = first + to - from - 1;
        let row = self.columns.push_row(last);
        step.rows.push(Row { sequence, at: to });
        self.sequences.expect(i, step.serial, row);
        self.sequences.own[i].special = false;
        let dormant = std::mem::take(&mut live.rest.dormant);
        live.rest.seats -= dormant.len() as u32;
        for slot in dormant {
            self.fork_dormant(own.slot, slot);
            let row = self.columns.push_row(last);
            let j = self.sequences.slots[slot as usize].rest.index as usize;
            step.rows.push(Row { sequence: self.sequences.reference(j), at: to });
            self.sequences.expect(j, step.serial, row);
        }
    }

    /// Gives a branch the tokens and the blocks of another.
    fn fork_dormant(&mut self, from: u32, to: u32) {
        let parent = &mut self.sequences.slots[from as usize];
        let table = self.pool.fork(&mut parent.rest.table);
        let i = parent.rest.index as usize;
        let known = parent.tokens.all().to_vec();
        let own = self.sequences.own[i];
        let child = &mut self.sequences.slots[to as usize];
        child.tokens = History::new(known);
        child.tokens.reserve(own.limit as usize);
        child.rest.table = table;
        child.rest.table.reserve(self.pool.blocks_for(own.limit) as usize);
        let j = child.rest.index as usize;
        self.sequences.resident[j] = self.sequences.resident[i];
        // Both must look for a shared block before they write; the child's own count is 0 already.
        self.sequences.own[i].covered = 0;
    }
}
