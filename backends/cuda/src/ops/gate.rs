//! The gate of a gated MLP.

use tokenmill_backend_model::device::Activation;
use tokenmill_backend_model::error::Error;

use crate::buffer::Buffer;
use crate::gpu::{Arg, Gpu, Grid};

/// Columns of a block: four a thread.
const BLOCK: usize = 1024;

/// On rows `[gate | up]`: `out = activation(gate) * up`.
pub fn gate_mul(gpu: &Gpu, gate_up: &Buffer, activation: Activation, out: &mut Buffer) -> Result<(), Error> {
    let (rows, cols) = (gate_up.rows(), gate_up.cols / 2);
    out.set_rows(rows);
    let grid = Grid { blocks: [rows as u32, cols.div_ceil(BLOCK) as u32, 1], threads: 256, shared: 0 };
    let activation = match activation {
        Activation::Silu => 0,
        Activation::GeluTanh => 1,
        Activation::Gelu => 2,
    };
    let args = [
        Arg::Ptr(gate_up.ptr()),
        Arg::Ptr(out.ptr()),
        Arg::U32(rows as u32),
        Arg::U32(cols as u32),
        Arg::U32(activation),
    ];
    gpu.launch(named!(out.dtype, "gate_mul"), grid, &args)
}
