//! Weights of linear layers on their way to the device.

use tokenmill_backend_model::device::Matrix;
use tokenmill_backend_model::error::Error;

use crate::buffer::Weight;
use crate::gpu::Gpu;

/// Rows are read by kernels in pieces of so many bytes.
const PIECE: usize = 16;

/// Stacks `parts`, which have the same columns and element type, by rows.
pub(crate) fn stack(gpu: &Gpu, parts: &[Matrix<'_>]) -> Result<Weight, Error> {
    let Some(first) = parts.first() else {
        return Err(Error::Invalid("a linear layer without weights".into()));
    };
    let (dtype, cols) = (first.dtype, first.cols);
    if parts.iter().any(|part| (part.dtype, part.cols) != (dtype, cols)) {
        return Err(Error::Unsupported("the parts of a fused linear layer differ in element type".into()));
    }
    let row = cols * dtype.size();
    if !row.is_multiple_of(PIECE) {
        return Err(Error::Unsupported(format!(
            "a linear layer of {cols} inputs on this rank: CUDA kernels need a multiple of {}",
            PIECE / dtype.size()
        )));
    }
    let rows = parts.iter().map(|part| part.rows).sum::<usize>();
    let memory = gpu.alloc(rows * row)?;
    let mut to = memory.ptr();
    for part in parts {
        upload(gpu, part, to)?;
        to += (part.rows * row) as u64;
    }
    Ok(Weight { memory, dtype, rows, cols })
}

fn upload(gpu: &Gpu, part: &Matrix<'_>, to: u64) -> Result<(), Error> {
    let (row, stride) = (part.cols * part.dtype.size(), part.stride * part.dtype.size());
    if row == stride {
        return gpu.upload(to, &part.bytes[..part.rows * row]);
    }
    // A shard of columns: its rows are gathered first.
    let gathered: Vec<u8> = (0..part.rows).flat_map(|i| &part.bytes[i * stride..][..row]).copied().collect();
    gpu.upload(to, &gathered)
}
