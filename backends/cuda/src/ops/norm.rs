//! Root mean square norms of rows.

use tokenmill_backend_model::error::Error;

use crate::buffer::{Buffer, Vector};
use crate::gpu::{Arg, Gpu, Grid};

/// `residual += x`, then `out = rms_norm(residual)`; residual and `x` are f32, `out` is of the working type.
pub fn add_rms_norm(
    gpu: &Gpu,
    residual: &mut Buffer,
    x: &Buffer,
    weight: &Vector,
    eps: f32,
    out: &mut Buffer,
) -> Result<(), Error> {
    let (rows, cols) = (residual.rows(), residual.cols);
    out.set_rows(rows);
    let args = [
        Arg::Ptr(residual.ptr()),
        Arg::Ptr(x.ptr()),
        Arg::Ptr(weight.memory.ptr()),
        Arg::Ptr(out.ptr()),
        Arg::U32(rows as u32),
        Arg::U32(cols as u32),
        Arg::F32(eps),
    ];
    gpu.launch(named!(out.dtype, "add_rms_norm"), grid(rows, cols), &args)
}

/// `x = rms_norm(x)`, of f32.
pub fn rms_norm(gpu: &Gpu, x: &mut Buffer, weight: &Vector, eps: f32) -> Result<(), Error> {
    let (rows, cols) = (x.rows(), x.cols);
    let args = [
        Arg::Ptr(x.ptr()),
        Arg::Ptr(weight.memory.ptr()),
        Arg::U32(rows as u32),
        Arg::U32(cols as u32),
        Arg::F32(eps),
    ];
    gpu.launch("rms_norm_f32", grid(rows, cols), &args)
}

/// A block a row, four columns a thread as far as that goes.
fn grid(rows: usize, cols: usize) -> Grid {
    let threads = cols.div_ceil(4).next_multiple_of(32).min(512);
    Grid { blocks: [rows as u32, 1, 1], threads: threads as u32, shared: 0 }
}
