//! The columns of the next step. Decoding sequences keep their lane from step to step, so that their
//! block tables are appended to and not written anew.

use tokenmill_backend::Batch;

use crate::draft::Draft;
use crate::event::FinishReason;
use crate::forks::Fork;
use crate::sequences::Reference;

/// Entries of a block table beyond what is in use, so that it can grow in place. They are never read:
/// no position reaches them.
const SLACK: u32 = 4;

/// What a step computes.
#[derive(Default)]
pub(crate) struct Columns {
    tokens: Vec<i32>,
    seq_start: Vec<u32>,
    seq_pos: Vec<u32>,
    block_start: Vec<u32>,
    blocks: Vec<u32>,
    rows: Vec<u32>,
    pub(crate) copies: Vec<(u32, u32)>,
    /// Whose block table lies in each lane; beyond this step's lanes, those of the step before.
    lanes: Vec<Lane>,
    /// The first lanes, up to here, are those of the step before.
    kept: usize,
}

#[derive(Clone, Copy)]
struct Lane {
    slot: u32,
    epoch: u32,
    /// Blocks in use.
    blocks: u32,
}

impl Columns {
    /// Sized once: block tables outgrow this only if many sequences share a prefix.
    pub(crate) fn new(blocks: u32, max_tokens: u32, max_seqs: u32) -> Self {
        let (tokens, seqs) = (max_tokens as usize, max_seqs as usize);
        Self {
            tokens: Vec::with_capacity(tokens),
            seq_start: Vec::with_capacity(seqs + 1),
            seq_pos: Vec::with_capacity(seqs),
            block_start: Vec::with_capacity(seqs + 1),
            blocks: Vec::with_capacity(blocks as usize + seqs * SLACK as usize),
            rows: Vec::with_capacity(tokens),
            lanes: Vec::with_capacity(seqs),
            ..Self::default()
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.seq_pos.is_empty()
    }

    pub(crate) fn seqs(&self) -> u32 {
        self.seq_pos.len() as u32
    }

    pub(crate) fn n_rows(&self) -> u32 {
        self.rows.len() as u32
    }

    pub(crate) fn n_tokens(&self) -> u32 {
        self.tokens.len() as u32
    }

    /// A new step. Copies stay until they are submitted.
    pub(crate) fn clear(&mut self) {
        self.kept = self.lanes.len();
        self.tokens.clear();
        self.seq_start.clear();
        self.seq_start.push(0);
        self.seq_pos.clear();
        self.rows.clear();
    }

    pub(crate) fn push_token(&mut self, token: i32) {
        self.tokens.push(token);
    }

    /// Keeps the logits of a token; returns the row.
    pub(crate) fn push_row(&mut self, token: u32) -> u32 {
        self.rows.push(token);
        self.rows.len() as u32 - 1
    }

    /// The next lane is one token more of the same sequence as in the step before, with the same blocks;
    /// `None` if it is not. `block` counts those before the position's. Keeps the token's logits and
    /// returns the row.
    #[inline(always)]
    pub(crate) fn continue_lane(
        &mut self,
        of: (u32, u32),
        position: u32,
        block: u32,
        token: i32,
    ) -> Option<u32> {
        let at = self.seq_pos.len();
        let lane = self.lanes.get(at).filter(|lane| at < self.kept && (lane.slot, lane.epoch) == of)?;
        if block >= lane.blocks {
            return None;
        }
        let row = self.rows.len() as u32;
        self.rows.push(self.tokens.len() as u32);
        self.tokens.push(token);
        self.seq_pos.push(position);
        self.seq_start.push(self.tokens.len() as u32);
        Some(row)
    }

    /// Ends a lane, whose tokens were pushed before. `n_blocks` is the length of `table`, which is only
    /// looked at if it changed; `most` is the length that a table can have.
    pub(crate) fn push_lane<'a>(
        &mut self,
        (slot, epoch): (u32, u32),
        position: u32,
        n_blocks: u32,
        most: u32,
        table: impl FnOnce() -> &'a [u32],
    ) {
        let at = self.seq_pos.len();
        self.seq_pos.push(position);
        self.seq_start.push(self.tokens.len() as u32);
        if at < self.kept {
            let lane = &mut self.lanes[at];
            if (lane.slot, lane.epoch) == (slot, epoch) {
                if lane.blocks == n_blocks {
                    return;
                }
                let (start, end) = (self.block_start[at], self.block_start[at + 1]);
                if n_blocks > lane.blocks && n_blocks <= end - start {
                    let new = lane.blocks as usize..n_blocks as usize;
                    self.blocks[start as usize..][new.clone()].copy_from_slice(&table()[new]);
                    lane.blocks = n_blocks;
                    return;
                }
            }
            self.kept = at;
        }
        self.lanes.truncate(at);
        self.block_start.truncate(at + 1);
        if at == 0 {
            self.block_start.clear();
            self.block_start.push(0);
        }
        self.blocks.truncate(self.block_start[at] as usize);
        self.blocks.extend_from_slice(table());
        let filler = self.blocks.last().copied().unwrap_or(0);
        let slack = SLACK.min(most.saturating_sub(n_blocks)) as usize;
        self.blocks.resize(self.blocks.len() + slack, filler);
        self.block_start.push(self.blocks.len() as u32);
        self.lanes.push(Lane { slot, epoch, blocks: n_blocks });
    }

    /// The finished step.
    pub(crate) fn batch(&mut self) -> Batch<'_> {
        let seqs = self.seq_pos.len();
        self.lanes.truncate(seqs);
        self.block_start.truncate(seqs + 1);
        self.blocks.truncate(self.block_start[seqs] as usize);
        Batch {
            tokens: &self.tokens,
            seq_start: &self.seq_start,
            seq_pos: &self.seq_pos,
            block_start: &self.block_start,
            blocks: &self.blocks,
            rows: &self.rows,
            copies: &self.copies,
        }
    }
}

/// A step that was submitted, or is about to be.
#[derive(Default)]
pub(crate) struct Step {
    pub(crate) ticket: Option<tokenmill_backend::Ticket>,
    /// Counts steps from 1.
    pub(crate) serial: u32,
    /// Sequences without a row.
    pub(crate) silent: Vec<Reference>,
    pub(crate) rows: Vec<Row>,
    /// Those of the rows that stand on a guess, in order.
    pub(crate) drafts: Vec<Draft>,
    /// Sequences whose prompt fills blocks with this step, and their tokens after it.
    pub(crate) filled: Vec<(Reference, u32)>,
    /// Sequences that end with this step although it samples nothing for them.
    pub(crate) scored: Vec<Reference>,
    /// Sequences that a sampling policy ended with this step.
    pub(crate) ended: Vec<(Reference, FinishReason)>,
    /// Branches that it forked.
    pub(crate) forks: Vec<Fork>,
    /// Results, by row.
    pub(crate) tokens: Vec<i32>,
    pub(crate) logprobs: Vec<f32>,
}

/// A row of a step: it decides the token at position `at` of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) sequence: Reference,
    pub(crate) at: u32,
}

impl Step {
    pub(crate) fn clear(&mut self) {
        self.ticket = None;
        self.silent.clear();
        self.rows.clear();
        self.drafts.clear();
        self.filled.clear();
        self.scored.clear();
        self.ended.clear();
        self.forks.clear();
        self.tokens.clear();
        self.logprobs.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(columns: &mut Columns, slot: u32, epoch: u32, table: &[u32]) {
        columns.push_token(0);
        columns.push_lane((slot, epoch), 0, table.len() as u32, 100, || table);
    }

    fn tables(columns: &mut Columns, lens: &[usize]) -> Vec<Vec<u32>> {
        let batch = columns.batch();
        let range = |i: usize| batch.block_start[i] as usize..batch.block_start[i + 1] as usize;
        assert_eq!(batch.block_start.len(), lens.len() + 1);
        (0..lens.len()).map(|i| batch.blocks[range(i)][..lens[i]].to_vec()).collect()
    }

    #[test]
    fn lanes_hold_the_tables_whatever_was_there_before() {
        let mut columns = Columns::default();
        // Each step: slot, epoch, table.
        let steps: &[&[(u32, u32, &[u32])]] = &[
            &[(0, 1, &[5]), (1, 2, &[6, 7])],
            &[(0, 1, &[5]), (1, 2, &[6, 7, 8])],
            &[(0, 1, &[5, 9, 10]), (1, 2, &[6, 7, 8, 1, 2, 3, 4])],
            &[(1, 2, &[6, 7, 8, 1, 2, 3, 4])],
            &[(1, 3, &[6]), (0, 4, &[2])],
            &[(1, 3, &[6])],
            &[],
            &[(0, 4, &[2]), (1, 3, &[6, 7]), (2, 5, &[1])],
        ];
        for step in steps {
            columns.clear();
            step.iter().for_each(|&(slot, epoch, table)| lane(&mut columns, slot, epoch, table));
            if step.is_empty() {
                assert!(columns.is_empty());
                continue;
            }
            let lens: Vec<usize> = step.iter().map(|lane| lane.2.len()).collect();
            let expected: Vec<Vec<u32>> = step.iter().map(|lane| lane.2.to_vec()).collect();
            assert_eq!(tables(&mut columns, &lens), expected);
        }
    }
}
