//! Devices, buffers, steps, random numbers and comparisons for the tests of operations.
#![allow(dead_code)]

use half::{bf16, f16};
use tokenmill_backend_model::device::{CacheShape, Dtype, Step};
use tokenmill_cuda::batch::{Batch, Room, TileTokens};
use tokenmill_cuda::buffer::{Buffer, Cache, Vector, Weight};
use tokenmill_cuda::{Gpu, Memory};

pub(crate) const DTYPES: [Dtype; 3] = [Dtype::Bf16, Dtype::F16, Dtype::F32];

/// The emulator's device with every kernel of the sources, or GPU 0 with the kernels that were built.
pub(crate) fn gpu() -> Gpu {
    if tokenmill_emulator::is_real_gpu() {
        return Gpu::open(0).unwrap();
    }
    tokenmill_emulator::preload();
    // The emulator runs what it was built with; of an image it wants the kernels' names.
    let bytes = std::fs::read(tokenmill_emulator::LIBRARY).unwrap();
    Gpu::open_with(0, &[tokenmill_kernels::Module { file: "emulated", bytes }]).unwrap()
}

/// Numbers that are the same in every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        // splitmix64 (Steele, Lea, Flood 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From -1 to 1.
    pub(crate) fn number(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(crate) fn numbers(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.number()).collect()
    }

    /// Below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// `values` as `dtype` holds them.
pub(crate) fn rounded(dtype: Dtype, values: &[f32]) -> Vec<f32> {
    let round = |v: &f32| match dtype {
        Dtype::F32 => *v,
        Dtype::F16 => f16::from_f32(*v).to_f32(),
        Dtype::Bf16 => bf16::from_f32(*v).to_f32(),
    };
    values.iter().map(round).collect()
}

/// Memory that holds `values` as `dtype`.
pub(crate) fn uploaded(gpu: &Gpu, dtype: Dtype, values: &[f32]) -> Memory {
    match dtype {
        Dtype::F32 => gpu.uploaded(values),
        Dtype::F16 => gpu.uploaded(&values.iter().map(|v| f16::from_f32(*v)).collect::<Vec<_>>()),
        Dtype::Bf16 => gpu.uploaded(&values.iter().map(|v| bf16::from_f32(*v)).collect::<Vec<_>>()),
    }
    .unwrap()
}

/// The first `count` elements at `from`.
pub(crate) fn downloaded(gpu: &Gpu, dtype: Dtype, from: u64, count: usize) -> Vec<f32> {
    match dtype {
        Dtype::F32 => {
            let mut values = vec![0f32; count];
            gpu.download(from, &mut values).unwrap();
            values
        }
        Dtype::F16 => {
            let mut values = vec![f16::ZERO; count];
            gpu.download(from, &mut values).unwrap();
            values.into_iter().map(f16::to_f32).collect()
        }
        Dtype::Bf16 => {
            let mut values = vec![bf16::ZERO; count];
            gpu.download(from, &mut values).unwrap();
            values.into_iter().map(bf16::to_f32).collect()
        }
    }
}

/// A buffer of just these rows.
pub(crate) fn buffer(gpu: &Gpu, dtype: Dtype, cols: usize, values: &[f32]) -> Buffer {
    let rows = values.len() / cols;
    let mut buffer = Buffer::new(uploaded(gpu, dtype, values), dtype, rows, cols);
    buffer.set_rows(rows);
    buffer
}

/// A buffer with room for `rows` rows, all NaN.
pub(crate) fn empty(gpu: &Gpu, dtype: Dtype, rows: usize, cols: usize) -> Buffer {
    Buffer::new(uploaded(gpu, dtype, &vec![f32::NAN; rows * cols]), dtype, rows, cols)
}

/// The rows of a buffer.
pub(crate) fn values(gpu: &Gpu, buffer: &Buffer) -> Vec<f32> {
    downloaded(gpu, buffer.dtype, buffer.ptr(), buffer.rows() * buffer.cols)
}

pub(crate) fn vector(gpu: &Gpu, values: &[f32]) -> Vector {
    Vector { memory: gpu.uploaded(values).unwrap(), len: values.len() }
}

pub(crate) fn weight(gpu: &Gpu, dtype: Dtype, rows: usize, cols: usize, values: &[f32]) -> Weight {
    Weight { memory: uploaded(gpu, dtype, values), dtype, rows, cols }
}

/// A cache whose every slot is NaN.
pub(crate) fn cache(gpu: &Gpu, shape: CacheShape) -> Cache {
    let elements = shape.block_bytes() / shape.dtype.size() * shape.blocks;
    Cache { memory: uploaded(gpu, shape.dtype, &vec![f32::NAN; elements]), shape }
}

/// `step` where the device reads it.
pub(crate) fn batch(gpu: &Gpu, step: &Step<'_>, block_tokens: usize, tile: TileTokens) -> Batch {
    let room = Room {
        tokens: step.tokens.len(),
        seqs: step.seq_pos.len(),
        rows: step.rows.len(),
        blocks: step.blocks.len(),
    };
    let mut batch = Batch::new(gpu, room).unwrap();
    batch.fill(gpu, step, block_tokens, tile).unwrap();
    batch
}

/// Largest relative error a stored result of `dtype` may have.
pub(crate) fn tolerance(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F32 => 1e-5,
        Dtype::F16 | Dtype::Bf16 => 1e-2,
    }
}

/// `|got - want| <= tolerance * (|want| + scale)`: `scale` is the size of what was summed.
pub(crate) fn assert_close(what: &str, got: &[f32], want: &[f64], scale: f64, tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let off = (f64::from(*got) - want).abs();
        // Written so that NaN fails.
        assert!(off <= tolerance * (want.abs() + scale), "{what}: [{i}] is {got}, expected {want}");
    }
}
