//! `out[:, column..column + n] = x · weightᵀ + bias`: kernels/gemm_small.cu, gemm.cu and gemm_f32.cu.

mod cublaslt;
mod plan;
mod tile;

use std::str::FromStr;

use tokenmill_backend_model::device::Dtype;
use tokenmill_backend_model::error::Error;

pub use plan::{Layer, Machine, Plan, SMALL_ROWS};
pub use tile::{F32, Kind, LARGE, SMALL, Tile};

use self::cublaslt::Cublaslt;
use crate::buffer::{Buffer, Vector, Weight};
use crate::gpu::{Arg, Gpu, Grid};
use crate::memory::Memory;

/// Whose kernels compute layers of many rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Library {
    Own,
    /// cuBLASLt; an error if it is not installed.
    Cublaslt,
    /// cuBLASLt if it is installed and starts.
    #[default]
    Auto,
}

impl FromStr for Library {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "own" => Ok(Self::Own),
            "cublaslt" => Ok(Self::Cublaslt),
            "auto" => Ok(Self::Auto),
            _ => Err(Error::Invalid(format!("options: gemm={name} is not one of own, cublaslt, auto"))),
        }
    }
}

/// Where blocks that share a tile leave their sums, and the counters that tell which of them is last. One per stream:
/// layers use it one after another.
pub struct Workspace {
    partials: Memory,
    /// A zero per tile; kernels leave them so.
    counters: Memory,
    cublaslt: Option<Cublaslt>,
}

impl Workspace {
    /// For our own kernels alone.
    pub fn new(gpu: &Gpu) -> Result<Self, Error> {
        let multiprocessors = gpu.properties().multiprocessors;
        Ok(Self {
            partials: gpu.alloc(Self::partial_bytes(multiprocessors))?,
            counters: gpu.zeroed(Self::counter_bytes(multiprocessors))?,
            cublaslt: None,
        })
    }

    /// For `library`, which allocates 32 MB more if it is cuBLASLt.
    pub fn with(gpu: &Gpu, library: Library) -> Result<Self, Error> {
        let cublaslt = match library {
            Library::Own => None,
            Library::Auto => Cublaslt::open(gpu).ok().flatten(),
            Library::Cublaslt => {
                let missing = || Error::Unsupported("gemm=cublaslt: libcublasLt.so is not found".into());
                Some(Cublaslt::open(gpu)?.ok_or_else(missing)?)
            }
        };
        Ok(Self { cublaslt, ..Self::new(gpu)? })
    }

    /// What `new` allocates, whatever the layers: 128 KB per multiprocessor, 17 MB on an H100.
    pub fn bytes(multiprocessors: u32) -> usize {
        Self::partial_bytes(multiprocessors) + Self::counter_bytes(multiprocessors)
    }

    fn partial_bytes(multiprocessors: u32) -> usize {
        multiprocessors as usize * tile::PARTIAL_BYTES_PER_MULTIPROCESSOR
    }

    /// Only tiles that run at the same time are split, at most three per multiprocessor.
    fn counter_bytes(multiprocessors: u32) -> usize {
        multiprocessors as usize * 3 * size_of::<u32>()
    }
}

/// `out[:, column..column + weight.rows] = x · weightᵀ + bias`, other columns are kept. `out` holds f32 or what the
/// weight holds, and gets the rows of `x`.
pub fn linear(
    gpu: &Gpu,
    workspace: &Workspace,
    x: &Buffer,
    weight: &Weight,
    bias: Option<&Vector>,
    out: &mut Buffer,
    column: usize,
) -> Result<(), Error> {
    let layer = layer(x, weight);
    if let (Some(cublaslt), None) = (&workspace.cublaslt, bias) {
        check(x, weight, bias, out, column);
        if cublaslt.multiply(gpu, &layer, x, weight, out, column)? {
            out.set_rows(x.rows());
            return Ok(());
        }
    }
    let properties = gpu.properties();
    let machine = Machine { multiprocessors: properties.multiprocessors, shared: properties.shared };
    let plan = Plan::of(&layer, &machine);
    linear_by(plan, gpu, workspace, x, weight, bias, out, column)
}

/// `linear` by a given plan.
#[allow(clippy::too_many_arguments)]
pub fn linear_by(
    plan: Plan,
    gpu: &Gpu,
    workspace: &Workspace,
    x: &Buffer,
    weight: &Weight,
    bias: Option<&Vector>,
    out: &mut Buffer,
    column: usize,
) -> Result<(), Error> {
    let Layer { dtype, m, n, k } = layer(x, weight);
    check(x, weight, bias, out, column);
    out.set_rows(x.rows());
    let Plan { tile, splits } = plan;
    let (down, across) = (m.div_ceil(tile.m), n.div_ceil(tile.n));
    assert!(tile.kind != Kind::Small || down <= 1, "{m} rows in a tile of {}", tile.m);
    let blocks = match tile.kind {
        Kind::Small => [if m == 0 { 0 } else { across }, splits, 1],
        Kind::Large => [down * across, splits, 1],
        Kind::F32 => [across, down, 1],
    };
    let sums = (down * across * splits) as usize * tile.partials() * size_of::<f32>();
    assert!(splits == 1 || sums <= workspace.partials.bytes(), "partial sums beyond the workspace");
    let args = [
        Arg::Ptr(x.ptr()),
        Arg::Ptr(weight.memory.ptr()),
        Arg::Ptr(bias.map_or(0, |bias| bias.memory.ptr())),
        Arg::Ptr(out.ptr()),
        Arg::U32(m),
        Arg::U32(n),
        Arg::U32(k),
        Arg::U32(out.cols as u32),
        Arg::U32(column as u32),
        Arg::U32((out.dtype == Dtype::F32).into()),
        Arg::Ptr(workspace.partials.ptr()),
        Arg::Ptr(workspace.counters.ptr()),
    ];
    // Kernels of f32 end with the column: their outputs are f32, and K is not split.
    let args = if tile.kind == Kind::F32 { &args[..9] } else { &args[..] };
    let name = tile.names[usize::from(dtype == Dtype::F16)];
    gpu.launch(name, Grid { blocks, threads: tile.threads, shared: tile.shared }, args)
}

/// The shapes of a linear layer.
pub fn layer(x: &Buffer, weight: &Weight) -> Layer {
    Layer { dtype: weight.dtype, m: x.rows() as u32, n: weight.rows as u32, k: weight.cols as u32 }
}

/// What the kernels rely on.
fn check(x: &Buffer, weight: &Weight, bias: Option<&Vector>, out: &Buffer, column: usize) {
    assert_eq!((x.dtype, x.cols), (weight.dtype, weight.cols), "a linear layer's input");
    assert!(
        out.dtype == Dtype::F32 || out.dtype == weight.dtype,
        "a linear layer's output is {:?}",
        out.dtype
    );
    assert!(column + weight.rows <= out.cols, "a linear layer's columns");
    assert!(bias.is_none_or(|bias| bias.len == weight.rows), "a linear layer's bias");
    assert!((weight.cols * weight.dtype.size()).is_multiple_of(16), "rows of {} elements", weight.cols);
}
