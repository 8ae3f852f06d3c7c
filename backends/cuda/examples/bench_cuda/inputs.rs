//! The device, and random numbers on it.

use half::bf16;
use tokenmill_backend_export::{Options, Platform};
use tokenmill_backend_model::device::{Device, Dtype, Matrix, Precision, Step};
use tokenmill_cuda::buffer::{Buffer, Weight};
use tokenmill_cuda::{Cuda, CudaPlatform, Gpu};

/// Whatever went wrong: the caller prints it.
pub(crate) type Failure = Box<dyn std::error::Error>;

/// Inputs that are read over and over take turns, as many as exceed any L2 cache.
const ROTATE: usize = 256 << 20;
const MAX_COPIES: usize = 64;
/// Random numbers there are; larger inputs repeat them.
const NUMBERS: usize = 1_000_003;

/// GPU 0, whose working type is bf16.
pub(crate) fn open(options: &str) -> Result<Cuda, Failure> {
    let options = Options::parse(options, CudaPlatform::OPTIONS)?;
    let rank = CudaPlatform::open(&[0], 1, &options)?.ranks.pop().ok_or("the platform made no rank")?;
    let mut device = CudaPlatform::device(rank)?;
    // The working type of activations is that of the weights seen last.
    weight(&mut device, 8, 8, &Numbers::new())?;
    Ok(device)
}

/// How many inputs of `bytes` bytes take turns.
pub(crate) fn copies(bytes: usize) -> usize {
    ROTATE.div_ceil(bytes.max(1)).min(MAX_COPIES)
}

/// Numbers of about normal distribution, the same in every run.
pub(crate) struct Numbers(Vec<bf16>);

impl Numbers {
    pub(crate) fn new() -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut uniform = || {
            // xorshift64 (Marsaglia 2003).
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 24) as f32
        };
        // The sum of four: its variance is a third.
        let mut normal = || (0..4).map(|_| uniform() - 0.5).sum::<f32>() * 3f32.sqrt();
        Self((0..NUMBERS).map(|_| bf16::from_f32(normal())).collect())
    }

    /// `count` of them times `scale`, as bytes.
    pub(crate) fn bytes(&self, count: usize, scale: f32) -> Vec<u8> {
        let list: Vec<u8> =
            self.0.iter().flat_map(|v| bf16::from_f32(v.to_f32() * scale).to_le_bytes()).collect();
        let mut bytes = Vec::with_capacity(2 * count);
        while bytes.len() < 2 * count {
            let rest = 2 * count - bytes.len();
            bytes.extend_from_slice(&list[..rest.min(list.len())]);
        }
        bytes
    }

    /// Writes them over the `bytes` bytes at `at`.
    pub(crate) fn fill(&self, gpu: &Gpu, at: u64, bytes: usize) -> Result<(), Failure> {
        let (piece, mut done) = (self.bytes((bytes / 2).min(NUMBERS * 32), 1.0), 0);
        while done < bytes {
            let rest = piece.len().min(bytes - done);
            gpu.upload(at + done as u64, &piece[..rest])?;
            done += rest;
        }
        Ok(())
    }
}

/// A random linear layer.
pub(crate) fn weight(
    device: &mut Cuda,
    rows: usize,
    cols: usize,
    numbers: &Numbers,
) -> Result<Weight, Failure> {
    let bytes = numbers.bytes(rows * cols, (cols as f32).sqrt().recip());
    Ok(device.weight(&[Matrix { dtype: Dtype::Bf16, rows, cols, stride: cols, bytes: &bytes }])?)
}

/// `rows` random rows of the working type.
pub(crate) fn buffer(
    device: &mut Cuda,
    rows: usize,
    cols: usize,
    numbers: &Numbers,
) -> Result<Buffer, Failure> {
    let mut buffer = device.buffer(rows, cols, Precision::Work)?;
    buffer.set_rows(rows);
    numbers.fill(device.gpu(), buffer.ptr(), 2 * rows * cols)?;
    Ok(buffer)
}

/// `sequences` sequences of `keys` tokens, the last `queries` of which are this step's; blocks in a mixed order.
pub(crate) struct Sequences {
    tokens: Vec<i32>,
    starts: Vec<u32>,
    positions: Vec<u32>,
    block_starts: Vec<u32>,
    blocks: Vec<u32>,
    rows: Vec<u32>,
}

impl Sequences {
    pub(crate) fn new(sequences: usize, queries: usize, keys: usize, block_tokens: usize) -> Self {
        let each = keys.div_ceil(block_tokens);
        let all = (sequences * each) as u32;
        // An odd step visits every block once unless it divides their number.
        let step = [7919_u64, 7907, 7901]
            .into_iter()
            .find(|step| !u64::from(all).is_multiple_of(*step))
            .unwrap_or(1);
        Self {
            tokens: (0..sequences * queries).map(|i| (i * 31 % 64) as i32).collect(),
            starts: (0..=sequences).map(|i| (i * queries) as u32).collect(),
            positions: vec![(keys - queries) as u32; sequences],
            block_starts: (0..=sequences).map(|i| (i * each) as u32).collect(),
            blocks: (0..all).map(|i| (u64::from(i) * step % u64::from(all)) as u32).collect(),
            rows: (1..=sequences).map(|i| (i * queries) as u32 - 1).collect(),
        }
    }

    pub(crate) fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Tokens that row `r` of the step before sampled become the next ones.
    pub(crate) fn follow(&mut self) {
        self.tokens = (0..self.positions.len() as i32).map(|row| -1 - row).collect();
    }

    /// The first of this step's tokens is at position `at`.
    pub(crate) fn start_at(&mut self, at: usize) {
        self.positions.fill(at as u32);
    }

    pub(crate) fn advance(&mut self) {
        self.positions.iter_mut().for_each(|position| *position += 1);
    }

    pub(crate) fn step(&self) -> Step<'_> {
        Step {
            tokens: &self.tokens,
            seq_start: &self.starts,
            seq_pos: &self.positions,
            block_start: &self.block_starts,
            blocks: &self.blocks,
            rows: &self.rows,
            copies: &[],
        }
    }
}
