//! What the compiler says of each kernel: the log of `ptxas -v`, and the launch bounds in the PTX.

use super::manifest::{Bounds, Resources};
use std::collections::BTreeMap;

/// By kernel. Functions that kernels call report their own stack: it counts where it appears.
pub(super) fn resources(log: &str) -> BTreeMap<String, Resources> {
    let mut found = BTreeMap::new();
    let mut kernel: Option<String> = None;
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            kernel = rest.split_once('\'').map(|(name, _)| name.to_owned());
        }
        let Some(name) = &kernel else { continue };
        let entry: &mut Resources = found.entry(name.clone()).or_default();
        let number = |unit: &str| before(line, unit);
        entry.registers = entry.registers.max(number(" registers"));
        entry.shared = entry.shared.max(number(" bytes smem"));
        entry.stack =
            entry.stack.max(number(" bytes stack frame")).max(number(" bytes cumulative stack size"));
        entry.spill_stores += number(" bytes spill stores");
        entry.spill_loads += number(" bytes spill loads");
    }
    found
}

/// What the compiler warned of. Reports and their continuations are no warnings.
pub(super) fn warnings(log: &str) -> Vec<String> {
    log.lines()
        .filter(|line| line.contains("warning #") || line.contains("warning :"))
        .map(|line| line.trim().to_owned())
        .collect()
}

/// `__launch_bounds__` of every kernel, as the PTX repeats them.
pub(super) fn bounds(ptx: &str) -> BTreeMap<String, Bounds> {
    let mut found = BTreeMap::new();
    let mut kernel: Option<String> = None;
    for line in ptx.lines() {
        if let Some((_, rest)) = line.split_once(".entry ") {
            kernel = Some(rest.trim_end_matches(['(', ')', ' ']).to_owned());
        }
        let Some(name) = &kernel else { continue };
        let entry: &mut Bounds = found.entry(name.clone()).or_default();
        if let Some(sizes) = line.strip_prefix(".maxntid ") {
            entry.threads = sizes.split(',').filter_map(|size| size.trim().parse::<u32>().ok()).product();
        } else if let Some(blocks) = line.strip_prefix(".minnctapersm ") {
            entry.blocks = blocks.trim().parse().unwrap_or(0);
        } else if line.starts_with('{') {
            kernel = None;
        }
    }
    found
}

/// The number that stands before `unit`, 0 if there is none.
fn before(line: &str, unit: &str) -> u32 {
    let Some((front, _)) = line.split_once(unit) else { return 0 };
    front.rsplit([' ', ',']).next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As NVRTC 12.9 prints it.
    const LOG: &str = "\
k.cu(2): warning #177-D: variable \"unused\" was declared but never referenced
Remark: The warnings can be suppressed with \"-diag-suppress <warning-number>\"
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'spills' for 'sm_80'
ptxas info    : Function properties for spills
ptxas         .     256 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 80 registers, used 1 barriers, 256 bytes cumulative stack size, 512 bytes smem, 364 bytes cmem[0]
ptxas info    : Compile time = 50.500 ms
ptxas info    : Compiling entry function 'clean' for 'sm_80'
ptxas info    : Function properties for clean
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 122 registers, used 1 barriers, 388 bytes cmem[0]
";

    #[test]
    fn the_log_of_ptxas_tells_spills_stack_and_shared_memory_of_each_kernel() {
        let found = resources(LOG);
        let spills = Resources { registers: 80, shared: 512, stack: 256, spill_stores: 12, spill_loads: 16 };
        assert_eq!(found["spills"], spills);
        assert_eq!(found["clean"], Resources { registers: 122, ..Resources::default() });
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn only_the_warning_itself_is_a_warning() {
        let found = warnings(LOG);
        assert_eq!(found, ["k.cu(2): warning #177-D: variable \"unused\" was declared but never referenced"]);
    }

    #[test]
    fn launch_bounds_are_read_from_ptx() {
        let ptx = "\
.visible .entry one(
	.param .u64 one_param_0
)
.maxntid 256, 1, 1
.minnctapersm 2
{
.visible .entry free(
	.param .u64 free_param_0
)
{
.maxntid 7
";
        let found = bounds(ptx);
        assert_eq!(found["one"], Bounds { threads: 256, blocks: 2 });
        assert_eq!(found["free"], Bounds::default());
    }
}
