//! What a worker may take. The kernel enforces it; going over ends the process.
use std::{io, time::Duration};

/// For loading: the largest published tokenizers take below 1 GiB and a few seconds.
pub(super) const LOAD: Limit = Limit { memory: 2 << 30, cpu: Duration::from_secs(60) };

/// More memory and processor time than a process has used so far.
#[derive(Clone, Copy)]
pub(super) struct Limit {
    pub(super) memory: u64,
    pub(super) cpu: Duration,
}

impl Limit {
    /// For rendering a conversation of so many bytes as JSON. Honest templates take about eight times those.
    pub(super) fn render(bytes: usize) -> Limit {
        Limit { memory: (40 << 20) + 16 * bytes as u64, cpu: Duration::from_secs(1) }
    }
}

/// The longest answer to a conversation of so many bytes. Markup of the shortest messages doubles them.
pub(super) fn answer_bytes(task_bytes: usize) -> usize {
    (1 << 20) + 8 * task_bytes
}

/// Address space this process has now, in bytes.
#[cfg(target_os = "linux")]
pub(super) fn memory_in_use() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let kib = size.and_then(|size| size.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib << 10).ok_or_else(|| io::Error::other("/proc/self/status has no VmSize"))
}

/// Sets the limits of this process: `limit.memory` above `memory_in_use`, `limit.cpu` from now on.
#[cfg(target_os = "linux")]
pub(super) fn set(limit: Limit, memory_in_use: u64) -> io::Result<()> {
    use rustix::{
        process::{Resource, Rlimit, getrlimit, setrlimit},
        time::{ClockId, clock_gettime},
    };
    let soft = |resource, value: u64| {
        let maximum = getrlimit(resource).maximum;
        let current = Some(maximum.map_or(value, |maximum| value.min(maximum)));
        setrlimit(resource, Rlimit { current, maximum })
    };
    let used = clock_gettime(ClockId::ProcessCPUTime).tv_sec.unsigned_abs();
    soft(Resource::Core, 0)?;
    soft(Resource::As, memory_in_use + limit.memory)?;
    // Counted in whole seconds.
    soft(Resource::Cpu, used + 1 + limit.cpu.as_secs())?;
    Ok(())
}

/// Only Linux both counts and limits a process's memory in a way used here; elsewhere fuel is the only bound.
#[cfg(not(target_os = "linux"))]
pub(super) fn memory_in_use() -> io::Result<u64> {
    Ok(0)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn set(_: Limit, _: u64) -> io::Result<()> {
    Ok(())
}
