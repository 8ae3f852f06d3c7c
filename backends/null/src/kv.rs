//! The KV arena: per slot the token and the hash of the prefix that ends there.

use tokenmill_backend_abi as abi;

use crate::validate::Columns;
use crate::{Fault, invalid};

/// The hash of the empty prefix.
const EMPTY: u64 = 0x746f_6b65_6e6d_696c;

/// The prefix `hash` followed by `token`: splitmix64's output function (Steele, Lea, Flood 2014).
pub(crate) fn mix(hash: u64, token: u32) -> u64 {
    let mut z =
        (hash ^ u64::from(token).wrapping_mul(0xff51_afd7_ed55_8ccd)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub(crate) struct Kv {
    /// Slots per block: 1 << shift.
    shift: u32,
    /// n_blocks << shift entries, as `tokens`. 0 = never written.
    hashes: Vec<u64>,
    tokens: Vec<u32>,
    /// Per block, the last claim to write it.
    claimed: Vec<u64>,
    claims: u64,
    /// Scratch: the hash of the prefix before each sequence's first token.
    before: Vec<u64>,
}

impl Kv {
    pub(crate) const SLOT_BYTES: u64 = 12;

    pub(crate) fn new(n_blocks: u32, block_tokens: u32) -> Self {
        let slots = n_blocks as usize * block_tokens as usize;
        Self {
            shift: block_tokens.trailing_zeros(),
            hashes: vec![0; slots],
            tokens: vec![0; slots],
            claimed: vec![0; n_blocks as usize],
            claims: 0,
            before: Vec::new(),
        }
    }

    fn slot(&self, blocks: &[u32], position: u32) -> usize {
        let block = blocks[(position >> self.shift) as usize] as usize;
        (block << self.shift) | (position & ((1 << self.shift) - 1)) as usize
    }

    /// Whether each block that a step writes belongs to a single sequence of it.
    pub(crate) fn check_writes(&mut self, batch: &Columns<'_>) -> Result<(), Fault> {
        self.claims += 1;
        for i in 0..batch.seq_pos.len() {
            let last = batch.seq_pos[i] + batch.seq_range(i).len() as u32 - 1;
            for index in batch.seq_pos[i] >> self.shift..=last >> self.shift {
                let block = batch.seq_blocks(i)[index as usize];
                if std::mem::replace(&mut self.claimed[block as usize], self.claims) == self.claims {
                    let at = batch.block_start[i] + index;
                    return Err(invalid(format!("blocks[{at}]: block {block} is written by two sequences")));
                }
            }
        }
        Ok(())
    }

    /// Runs the copies of a step, in order.
    pub(crate) fn copy(&mut self, copies: &[u32]) {
        let size = 1 << self.shift;
        for pair in copies.chunks_exact(2) {
            let (from, to) = ((pair[0] as usize) << self.shift, (pair[1] as usize) << self.shift);
            self.hashes.copy_within(from..from + size, to);
            self.tokens.copy_within(from..from + size, to);
        }
    }

    /// Writes the tokens of a step; `hashes` gets the prefix hash of each. With `check`, everything that any sequence
    /// attends to is compared with its own tokens afterwards; the fault is what a real model would compute wrongly.
    ///
    /// `tokens` are the batch's with references replaced by ids.
    pub(crate) fn step(
        &mut self,
        batch: &Columns<'_>,
        tokens: &[u32],
        check: bool,
        hashes: &mut Vec<u64>,
    ) -> Result<(), Fault> {
        // The past of every sequence is read before any slot is written: sequences of one step run side by side.
        self.before.clear();
        for i in 0..batch.seq_pos.len() {
            let past = match batch.seq_pos[i] {
                0 => EMPTY,
                position => self.hashes[self.slot(batch.seq_blocks(i), position - 1)],
            };
            self.before.push(past);
        }
        hashes.clear();
        for i in 0..batch.seq_pos.len() {
            let blocks = batch.seq_blocks(i);
            let mut hash = self.before[i];
            for (position, index) in (batch.seq_pos[i]..).zip(batch.seq_range(i)) {
                hash = mix(hash, tokens[index]);
                hashes.push(hash);
                let slot = self.slot(blocks, position);
                self.hashes[slot] = hash;
                if check {
                    self.tokens[slot] = tokens[index];
                }
            }
        }
        if check { self.verify(batch) } else { Ok(()) }
    }

    /// Every position of every sequence, from the first on.
    fn verify(&self, batch: &Columns<'_>) -> Result<(), Fault> {
        for i in 0..batch.seq_pos.len() {
            let blocks = batch.seq_blocks(i);
            let end = batch.seq_pos[i] + batch.seq_range(i).len() as u32;
            let mut hash = EMPTY;
            for position in 0..end {
                let slot = self.slot(blocks, position);
                hash = mix(hash, self.tokens[slot]);
                if hash != self.hashes[slot] {
                    let what = if self.hashes[slot] == 0 {
                        "was never written"
                    } else {
                        "belongs to another prefix"
                    };
                    return Err(self.defect(batch, i, position, what));
                }
            }
        }
        Ok(())
    }

    fn defect(&self, batch: &Columns<'_>, sequence: usize, position: u32, what: &str) -> Fault {
        let block = batch.seq_blocks(sequence)[(position >> self.shift) as usize];
        let text = format!("KV of sequence {sequence}: position {position} in block {block} {what}");
        Fault { code: abi::INTERNAL, text }
    }
}
