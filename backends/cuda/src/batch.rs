//! The index arrays of a step, packed for one copy: see `kernels/include/batch.cuh`, whose header this writes.

use tokenmill_backend_model::device::Step;
use tokenmill_backend_model::error::Error;

use crate::event::Event;
use crate::gpu::Gpu;
use crate::memory::{Memory, Pinned};

/// Words of the header.
const HEADER: usize = 16;

/// Queries of a sequence that one block of prefill attention takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TileTokens(pub usize);

/// What a batch has room for.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub tokens: usize,
    pub seqs: usize,
    pub rows: usize,
    /// Entries of `Step::blocks`.
    pub blocks: usize,
}

/// Numbers that the host needs to launch kernels over a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub tokens: usize,
    pub seqs: usize,
    pub rows: usize,
    /// Sequences with one token.
    pub decode: usize,
    /// Tiles of the queries of all others.
    pub tiles: usize,
    /// Keys of the longest sequence.
    pub longest: usize,
}

impl Counts {
    /// Every sequence has one token and keeps its logits: such steps are alike but for their size.
    pub fn is_decode(&self) -> bool {
        self.decode == self.seqs && self.rows == self.seqs
    }
}

/// The size that a step of `tokens` sequences is padded to, so that few sizes occur: 1, 2, 4, 8, 16, 24, … 64,
/// 80, … 256, 288, …
pub fn bucket(tokens: usize) -> usize {
    match tokens {
        0..=8 => tokens.next_power_of_two(),
        9..=64 => tokens.next_multiple_of(8),
        65..=256 => tokens.next_multiple_of(16),
        _ => tokens.next_multiple_of(32),
    }
}

/// The arrays of one step where the device reads them, and the pinned memory they come from.
pub struct Batch {
    pub room: Room,
    pub counts: Counts,
    /// Tokens that decode steps are padded to; `None`: the step runs at its own size.
    bucket: Option<usize>,
    device: Memory,
    staging: Pinned<u32>,
    /// Tells when the last copy out of `staging` ran.
    copied: Event,
}

impl Batch {
    pub fn new(gpu: &Gpu, room: Room) -> Result<Self, Error> {
        let words = HEADER + 4 * room.tokens + 6 * room.seqs + 2 + room.rows + room.blocks + 2 * room.tokens;
        Ok(Self {
            room,
            counts: Counts::default(),
            bucket: None,
            device: gpu.alloc(4 * words)?,
            staging: gpu.pinned(words)?,
            copied: gpu.event()?,
        })
    }

    /// Address of the header.
    pub fn ptr(&self) -> u64 {
        self.device.ptr()
    }

    /// What a decode step is padded to, if it is one and may be padded.
    pub fn bucket(&self) -> Option<usize> {
        self.bucket
    }

    /// Tokens that kernels run over: at least `counts.tokens`. The next two likewise.
    pub fn grid_tokens(&self) -> usize {
        self.bucket.unwrap_or(self.counts.tokens)
    }

    pub fn grid_rows(&self) -> usize {
        self.bucket.unwrap_or(self.counts.rows)
    }

    pub fn grid_decode(&self) -> usize {
        self.bucket.unwrap_or(self.counts.decode)
    }

    /// Lets kernels run over a whole bucket if this is a decode step, so that it can be recorded.
    pub fn pad(&mut self) {
        let most = self.room.tokens.min(self.room.seqs).min(self.room.rows);
        self.bucket = Some(bucket(self.counts.tokens).min(most)).filter(|_| self.counts.is_decode());
    }

    /// Packs `step` and queues its copy.
    pub fn fill(
        &mut self,
        gpu: &Gpu,
        step: &Step<'_>,
        block_tokens: usize,
        tile: TileTokens,
    ) -> Result<(), Error> {
        // Over at once unless a ticket was released while it ran.
        self.copied.wait()?;
        let mut words = Words { to: self.staging.as_mut_slice(), used: HEADER };
        self.counts = pack(&mut words, step, block_tokens, tile.0);
        let used = words.used;
        self.bucket = None;
        gpu.queue_upload(self.device.ptr(), &self.staging, used)?;
        self.copied.record()
    }
}

/// A header, and arrays appended behind it.
struct Words<'a> {
    to: &'a mut [u32],
    used: usize,
}

impl Words<'_> {
    /// Appends an array; the header's word `field` says where it is.
    fn array(&mut self, field: Field, values: impl Iterator<Item = u32>) -> usize {
        let start = self.used;
        self.to[field as usize] = start as u32;
        for value in values {
            self.to[self.used] = value;
            self.used += 1;
        }
        self.used - start
    }
}

/// Words of `struct Batch` that hold offsets, after the five counts.
#[derive(Clone, Copy)]
enum Field {
    Tokens = 5,
    Positions,
    Slots,
    Rows,
    SeqStart,
    SeqLen,
    BlockStart,
    Blocks,
    Decode,
    TileSeq,
    TileFirst,
}

fn pack(words: &mut Words<'_>, step: &Step<'_>, block_tokens: usize, tile: usize) -> Counts {
    let seqs = step.seq_pos.len();
    let queries = |seq: usize| step.seq_start[seq]..step.seq_start[seq + 1];
    let positions = move |seq: usize| step.seq_pos[seq]..step.seq_pos[seq] + queries(seq).len() as u32;
    let of_seq = move |seq: usize| &step.blocks[step.block_start[seq] as usize..];
    let slot = move |seq: usize, position: u32| {
        let (block, offset) = (position as usize / block_tokens, position % block_tokens as u32);
        of_seq(seq)[block] * block_tokens as u32 + offset
    };
    let tiled = move || (0..seqs).filter(move |seq| queries(*seq).len() > 1);
    let tiles = move || tiled().flat_map(move |seq| queries(seq).step_by(tile).map(move |q| (seq, q)));

    words.array(Field::Tokens, step.tokens.iter().map(|token| *token as u32));
    words.array(Field::Positions, (0..seqs).flat_map(positions));
    words.array(Field::Slots, (0..seqs).flat_map(|seq| positions(seq).map(move |p| slot(seq, p))));
    words.array(Field::Rows, step.rows.iter().copied());
    words.array(Field::SeqStart, step.seq_start.iter().copied());
    words.array(Field::SeqLen, (0..seqs).map(|seq| positions(seq).end));
    words.array(Field::BlockStart, step.block_start.iter().copied());
    words.array(Field::Blocks, step.blocks.iter().copied());
    let decode =
        words.array(Field::Decode, (0..seqs).filter(|s| queries(*s).len() == 1).map(|seq| seq as u32));
    let n_tiles = words.array(Field::TileSeq, tiles().map(|(seq, _)| seq as u32));
    words.array(Field::TileFirst, tiles().map(|(seq, query)| query - step.seq_start[seq]));
    let counts = Counts {
        tokens: step.tokens.len(),
        seqs,
        rows: step.rows.len(),
        decode,
        tiles: n_tiles,
        longest: (0..seqs).map(|seq| positions(seq).end as usize).max().unwrap_or(0),
    };
    for (word, count) in words.to.iter_mut().zip([counts.tokens, seqs, counts.rows, decode, n_tiles]) {
        *word = count as u32;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_they_are_for_and_waste_little() {
        for tokens in 1..=1024 {
            let size = bucket(tokens);
            assert!(size >= tokens && bucket(size) == size);
            assert!(size < 2 * tokens, "{tokens} in {size}");
        }
        let sizes: std::collections::BTreeSet<usize> = (1..=512).map(bucket).collect();
        assert!(sizes.len() <= 32, "{} sizes", sizes.len());
    }

    #[test]
    fn a_step_is_packed_as_kernels_read_it() {
        let step = Step {
            tokens: &[5, 6, 7, -2, 9],
            seq_start: &[0, 3, 4, 5],
            seq_pos: &[2, 9, 0],
            block_start: &[0, 2, 5, 6],
            blocks: &[4, 1, 0, 2, 3, 7],
            rows: &[2, 3],
            copies: &[],
        };
        let mut to = vec![u32::MAX; 128];
        let mut words = Words { to: &mut to, used: HEADER };
        let counts = pack(&mut words, &step, 4, 2);
        assert_eq!(counts, Counts { tokens: 5, seqs: 3, rows: 2, decode: 2, tiles: 2, longest: 10 });
        assert_eq!(to[..5], [5, 3, 2, 2, 2]);
        let array = |field: Field, len: usize| to[to[field as usize] as usize..][..len].to_vec();
        assert_eq!(array(Field::Tokens, 5), [5, 6, 7, -2_i32 as u32, 9]);
        assert_eq!(array(Field::Positions, 5), [2, 3, 4, 9, 0]);
        assert_eq!(array(Field::Slots, 5), [4 * 4 + 2, 4 * 4 + 3, 4, 3 * 4 + 1, 7 * 4]);
        assert_eq!(array(Field::Rows, 2), [2, 3]);
        assert_eq!(array(Field::SeqStart, 4), [0, 3, 4, 5]);
        assert_eq!(array(Field::SeqLen, 3), [5, 10, 1]);
        assert_eq!(array(Field::BlockStart, 4), [0, 2, 5, 6]);
        assert_eq!(array(Field::Blocks, 6), [4, 1, 0, 2, 3, 7]);
        assert_eq!(array(Field::Decode, 2), [1, 2]);
        assert_eq!(array(Field::TileSeq, 2), [0, 0]);
        assert_eq!(array(Field::TileFirst, 2), [0, 2]);
    }
}
