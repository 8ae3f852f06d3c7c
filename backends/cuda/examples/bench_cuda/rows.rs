//! What is done row by row: norms and sampling; and copies of blocks, the measure of bandwidth.

use tokenmill_backend_model::device::{CacheShape, Device, Dtype, Precision, RowSampling};
use tokenmill_cuda::Cuda;
use tokenmill_cuda::buffer::{Buffer, Cache, Vector};

use crate::Operation;
use crate::inputs::{Failure, Numbers, Sequences, buffer};

/// Adds a branch to the residual, and norms the sum.
pub(crate) struct Norm {
    residual: Buffer,
    x: Buffer,
    weight: Vector,
    out: Buffer,
}

impl Norm {
    pub(crate) fn new(device: &mut Cuda, rows: usize, cols: usize) -> Result<Self, Failure> {
        let mut sum = || -> Result<Buffer, Failure> {
            let mut buffer = device.buffer(rows, cols, Precision::Sum)?;
            buffer.set_rows(rows);
            device.gpu().zero(buffer.ptr(), 4 * rows * cols)?;
            Ok(buffer)
        };
        let (residual, x) = (sum()?, sum()?);
        let weight = device.vector(&vec![1.0; cols])?;
        Ok(Self { residual, x, weight, out: buffer(device, rows, cols, &Numbers::new())? })
    }
}

impl Operation for Norm {
    fn run(&mut self, device: &mut Cuda, _: usize) -> Result<(), Failure> {
        Ok(device.add_rms_norm(&mut self.residual, &self.x, &self.weight, 1e-5, &mut self.out)?)
    }
}

/// Tokens from logits, with the upload of how. Slots take turns: the host would wait for the last use of one.
pub(crate) struct Sample {
    logits: Buffer,
    slots: [<Cuda as Device>::Sampled; 4],
    rows: Vec<RowSampling<'static>>,
}

impl Sample {
    pub(crate) fn new(
        device: &mut Cuda,
        rows: usize,
        vocab: usize,
        top_k: u32,
        top_p: f32,
    ) -> Result<Self, Failure> {
        let mut logits = device.buffer(rows, vocab, Precision::Sum)?;
        logits.set_rows(rows);
        let numbers = Numbers::new().bytes(vocab, 4.0);
        let row: Vec<f32> =
            numbers.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
        for at in 0..rows {
            device.gpu().upload(logits.row(at), &row)?;
        }
        let of = |seed| RowSampling { seed, top_k, top_p, ..RowSampling::PLAIN };
        let mut slot = || device.sampled(rows, vocab);
        let slots = [slot()?, slot()?, slot()?, slot()?];
        Ok(Self { logits, slots, rows: (0..rows as u64).map(of).collect() })
    }
}

impl Operation for Sample {
    fn run(&mut self, device: &mut Cuda, turn: usize) -> Result<(), Failure> {
        let slot = &mut self.slots[turn % 4];
        Ok(device.sample(&self.logits, &self.rows, slot)?)
    }

    fn is_recorded(&self) -> bool {
        false
    }
}

/// Half of a cache's blocks to the other half.
pub(crate) struct Copy {
    cache: Cache,
    input: <Cuda as Device>::Batch,
    sequence: Sequences,
    pairs: Vec<(u32, u32)>,
}

impl Copy {
    /// Copies `bytes` bytes: reads as many and writes as many.
    pub(crate) fn new(device: &mut Cuda, bytes: usize) -> Result<Self, Failure> {
        // 256 KiB of keys and as many of values.
        let block_tokens = 256;
        let mut shape = CacheShape {
            layers: 1,
            query_heads: 8,
            kv_heads: 8,
            head_dim: 64,
            block_tokens,
            blocks: 0,
            dtype: Dtype::Bf16,
        };
        let count = bytes / shape.block_bytes();
        shape.blocks = 2 * count;
        let cache = device.cache(shape)?;
        device.gpu().zero(cache.memory.ptr(), cache.memory.bytes())?;
        let sequence = Sequences::new(1, 1, 1, block_tokens);
        let pairs = (0..count as u32).map(|i| (i, i + count as u32)).collect();
        Ok(Self { cache, input: device.batch(1, 1, 1, 1)?, sequence, pairs })
    }
}

impl Operation for Copy {
    fn run(&mut self, device: &mut Cuda, _: usize) -> Result<(), Failure> {
        let step = tokenmill_backend_model::device::Step { copies: &self.pairs, ..self.sequence.step() };
        Ok(device.begin(&step, &mut self.input, &mut self.cache)?)
    }

    fn is_recorded(&self) -> bool {
        false
    }
}
