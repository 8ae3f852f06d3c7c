//! Token ids become rows of the residual.

use tokenmill_backend_model::error::Error;

use super::sample::Sampled;
use crate::batch::Batch;
use crate::buffer::{Buffer, Weight};
use crate::gpu::{Arg, Gpu, Grid};

/// `out[t] = scale * table[tokens[t]]`, with ids `-1-r` from row `r` of `previous`, which the device may still be
/// sampling. `out` is f32.
pub fn embed(
    gpu: &Gpu,
    batch: &Batch,
    previous: Option<&Sampled>,
    table: &Weight,
    scale: f32,
    out: &mut Buffer,
) -> Result<(), Error> {
    out.set_rows(batch.grid_tokens());
    let grid = Grid { blocks: [batch.grid_tokens() as u32, 1, 1], threads: 128, shared: 0 };
    let args = [
        Arg::Ptr(batch.ptr()),
        Arg::Ptr(previous.map_or(0, Sampled::tokens)),
        Arg::Ptr(table.memory.ptr()),
        Arg::Ptr(out.ptr()),
        Arg::U32(table.cols as u32),
        Arg::F32(scale),
    ];
    gpu.launch(named!(table.dtype, "embed"), grid, &args)
}
