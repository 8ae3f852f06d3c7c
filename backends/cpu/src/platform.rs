//! The CPU as a platform of the backend ABI.

use crate::device::Cpu;
use crate::paths::Paths;
use crate::ranks::Group;
use crate::system::cores;
use std::sync::Arc;
use tokenmill_backend_export::{Options, Platform, Ranks};
use tokenmill_backend_model::error::Error;

/// Ordinals name nothing here: every rank runs on the same cores.
#[derive(Debug)]
pub struct CpuPlatform;

/// What one rank is made of.
pub struct Rank {
    group: Arc<Group>,
    rank: usize,
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

    fn open(ordinals: &[i32], options: &Options) -> Result<Ranks<Rank>, Error> {
        let threads = options.own_number("threads", 1, 1024)?.unwrap_or_else(cores);
        let ranks = ordinals.len();
        let group = Arc::new(Group::new(ranks));
        let rank = |rank| {
            let extra = usize::from(rank < threads % ranks);
            Rank { group: group.clone(), rank, threads: threads / ranks + extra }
        };
        Ok(Ranks {
            ranks: (0..ranks).map(rank).collect(),
            abort: Box::new({
                let group = group.clone();
                move || group.abort()
            }),
        })
    }

    fn device(rank: Rank) -> Result<Cpu, Error> {
        Ok(Cpu::new(rank.group, rank.rank, rank.threads, Paths::best()))
    }
}

tokenmill_backend_export::export_backend!(CpuPlatform, "cpu", "CPU: AMX, AVX-512, AVX2, NEON or portable");
