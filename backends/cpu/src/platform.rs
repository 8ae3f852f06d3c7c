//! The CPU as a platform of the backend ABI.

use crate::device::Cpu;
use crate::paths::Paths;
use crate::stages::Stages;
use crate::system::cores;
use std::sync::Arc;
use tokenmill_backend_export::{Options, Platform, Ranks};
use tokenmill_backend_model::error::Error;
use tokenmill_backend_model::shard::Place;

/// Ordinals name nothing here: every rank runs on the same cores.
#[derive(Debug)]
pub struct CpuPlatform;

/// What one rank is made of.
pub struct Rank {
    stages: Arc<Stages>,
    place: Place,
    threads: usize,
}

impl Platform for CpuPlatform {
    type Device = Cpu;
    type Rank = Rank;

    /// `threads`: of all ranks together; default: the cores this process may use.
    const OPTIONS: &'static [&'static str] = &["threads"];

    fn probe() -> Result<(), Error> {
        Ok(())
    }

    fn open(ordinals: &[i32], tensor_parallel: usize, options: &Options) -> Result<Ranks<Rank>, Error> {
        let threads = options.own_number("threads", 1, 1024)?.unwrap_or_else(cores);
        let ranks = ordinals.len();
        let stages = Arc::new(Stages::new(ranks, tensor_parallel));
        let rank = |rank| {
            let extra = usize::from(rank < threads % ranks);
            let place = Place::of(rank, ranks, tensor_parallel);
            Rank { stages: stages.clone(), place, threads: threads / ranks + extra }
        };
        Ok(Ranks {
            ranks: (0..ranks).map(rank).collect(),
            abort: Box::new({
                let stages = stages.clone();
                move || stages.abort()
            }),
        })
    }

    fn device(rank: Rank) -> Result<Cpu, Error> {
        Ok(Cpu::new(rank.stages, rank.place, rank.threads, Paths::best()))
    }
}

tokenmill_backend_export::export_backend!(CpuPlatform, "cpu", "CPU: AMX, AVX-512, AVX2, NEON or portable");
