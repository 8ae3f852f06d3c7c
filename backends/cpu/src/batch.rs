//! One step's index arrays.

use tokenmill_backend_model::device::Step;

/// Where a token of the step stands.
#[derive(Clone, Copy)]
pub struct Place {
    pub seq: u32,
    pub position: u32,
}

#[derive(Default)]
pub struct Batch {
    pub tokens: Vec<i32>,
    pub rows: Vec<u32>,
    /// One per token.
    pub places: Vec<Place>,
    /// Tokens of sequence `i`: `seq_start[i]..seq_start[i + 1]`.
    pub seq_start: Vec<u32>,
    block_start: Vec<u32>,
    blocks: Vec<u32>,
}

impl Batch {
    pub fn with_capacity(tokens: usize, seqs: usize, rows: usize, blocks: usize) -> Batch {
        Batch {
            tokens: Vec::with_capacity(tokens),
            rows: Vec::with_capacity(rows),
            places: Vec::with_capacity(tokens),
            seq_start: Vec::with_capacity(seqs + 1),
            block_start: Vec::with_capacity(seqs + 1),
            blocks: Vec::with_capacity(blocks),
        }
    }

    pub fn fill(&mut self, step: &Step<'_>) {
        replace(&mut self.tokens, step.tokens);
        replace(&mut self.rows, step.rows);
        replace(&mut self.seq_start, step.seq_start);
        replace(&mut self.block_start, step.block_start);
        replace(&mut self.blocks, step.blocks);
        self.places.clear();
        for (seq, (bounds, &first)) in step.seq_start.windows(2).zip(step.seq_pos).enumerate() {
            let positions = first..first + (bounds[1] - bounds[0]);
            self.places.extend(positions.map(|position| Place { seq: seq as u32, position }));
        }
    }

    /// Block ids of a sequence in position order.
    pub fn blocks_of(&self, seq: usize) -> &[u32] {
        &self.blocks[self.block_start[seq] as usize..self.block_start[seq + 1] as usize]
    }
}

fn replace<T: Copy>(to: &mut Vec<T>, from: &[T]) {
    to.clear();
    to.extend_from_slice(from);
}
