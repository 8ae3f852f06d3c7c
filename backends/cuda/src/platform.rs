//! NVIDIA GPUs as a platform of the backend ABI.

use tokenmill_backend_export::{Options, Platform, Ranks};
use tokenmill_backend_model::error::Error;

use crate::device::Cuda;
use crate::driver;
use crate::gpu::Gpu;
use crate::nccl::{Group, Membership};
use crate::ops::linear::Library;

/// Ordinals are those of the driver (`CUDA_VISIBLE_DEVICES` applies).
pub struct CudaPlatform;

/// What one rank is made of.
pub struct Rank {
    ordinal: i32,
    graphs: bool,
    gemm: Library,
    membership: Membership,
}

impl Platform for CudaPlatform {
    type Device = Cuda;
    type Rank = Rank;

    /// `graphs`: whether decode steps are recorded as CUDA graphs, on (default) or off.
    /// `gemm`: whose kernels compute layers of many rows, auto (default: of cuBLASLt if it is installed and starts),
    /// cublaslt or own.
    const OPTIONS: &'static [&'static str] = &["graphs", "gemm"];

    fn probe() -> Result<(), Error> {
        driver::init()?;
        driver::devices().map(drop)
    }

    fn open(ordinals: &[i32], tensor_parallel: usize, options: &Options) -> Result<Ranks<Rank>, Error> {
        driver::init()?;
        let count = driver::devices()?;
        for (rank, ordinal) in ordinals.iter().enumerate() {
            if usize::try_from(*ordinal).is_ok_and(|ordinal| ordinal < count) {
                continue;
            }
            let plural = if count == 1 { "" } else { "s" };
            return Err(Error::Invalid(format!(
                "devices[{rank}] = {ordinal}: this machine has {count} GPU{plural}, numbered from 0"
            )));
        }
        let graphs = match options.own("graphs").unwrap_or("on") {
            "on" => true,
            "off" => false,
            other => return Err(Error::Invalid(format!("options: graphs={other} is not one of on, off"))),
        };
        let gemm = options.own("gemm").map(str::parse).transpose()?.unwrap_or_default();
        let (memberships, abort) = Group::new(ordinals, tensor_parallel)?.split();
        let rank = |(ordinal, membership): (&i32, _)| Rank { ordinal: *ordinal, graphs, gemm, membership };
        Ok(Ranks { ranks: ordinals.iter().zip(memberships).map(rank).collect(), abort: Box::new(abort) })
    }

    fn device(rank: Rank) -> Result<Cuda, Error> {
        let gpu = Gpu::open(rank.ordinal)?;
        let comm = rank.membership.join(&gpu)?;
        Cuda::new(gpu, comm, rank.graphs, rank.gemm)
    }
}

tokenmill_backend_export::export_backend!(
    CudaPlatform,
    "cuda",
    "NVIDIA GPUs of compute capability 8.0 and newer"
);
