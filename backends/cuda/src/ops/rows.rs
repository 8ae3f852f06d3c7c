//! Rows and numbers on the way to logits, all of f32.

use tokenmill_backend_model::error::Error;

use crate::batch::Batch;
use crate::buffer::Buffer;
use crate::gpu::{Arg, Gpu, Grid};

/// Blocks that keep any GPU busy with numbers one by one.
const MANY: u64 = 1024;

/// `out[r] = x[batch.rows[r]]`
pub fn gather_rows(gpu: &Gpu, batch: &Batch, x: &Buffer, out: &mut Buffer) -> Result<(), Error> {
    out.set_rows(batch.grid_rows());
    let grid = Grid { blocks: [batch.grid_rows() as u32, 1, 1], threads: 128, shared: 0 };
    let args = [Arg::Ptr(batch.ptr()), Arg::Ptr(x.ptr()), Arg::Ptr(out.ptr()), Arg::U32(x.cols as u32)];
    gpu.launch("gather_rows_f32", grid, &args)
}

/// `x = cap * tanh(x / cap)`
pub fn softcap(gpu: &Gpu, x: &mut Buffer, cap: f32) -> Result<(), Error> {
    let n = x.rows() as u64 * x.cols as u64;
    let grid = Grid { blocks: [n.div_ceil(1024).min(MANY) as u32, 1, 1], threads: 256, shared: 0 };
    let args = [Arg::Ptr(x.ptr()), Arg::U32(n as u32), Arg::U32((n >> 32) as u32), Arg::F32(cap)];
    gpu.launch("softcap_f32", grid, &args)
}
