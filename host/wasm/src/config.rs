//! How the engine of wasmtime is set up. What shapes code is the same in the process that compiles and here.

use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::Limits;

/// One component becomes about three core instances; script engines have dozens.
const CORE_INSTANCES_EACH: u32 = 4;
const MOST_CORE_INSTANCES: u32 = 64;

/// Memory that a slot keeps between instances; it is overwritten with zeros, which is cheaper than giving
/// it back to the kernel.
const KEPT: usize = 64 << 10;

/// An engine that compiles and runs nothing.
pub(crate) fn compiling() -> wasmtime::Result<Engine> {
    Engine::new(&shape())
}

/// An engine that runs what [`compiling`] made.
pub(crate) fn running(limits: &Limits) -> wasmtime::Result<Engine> {
    let mut config = shape();
    config.max_wasm_stack(limits.stack);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(limits)));
    Engine::new(&config)
}

fn shape() -> Config {
    let mut config = Config::new();
    config.wasm_component_model(true);
    config.epoch_interruption(true);
    // The same decision on every machine. The bits of a NaN may still differ between kinds of processors:
    // to make them equal costs policies that compute up to three times their time.
    config.relaxed_simd_deterministic(true);
    // Proposals that no policy needs; most are not even compiled in.
    config.wasm_memory64(false);
    config.wasm_wide_arithmetic(false);
    config.wasm_custom_page_sizes(false);
    config.wasm_tail_call(false);
    config.concurrency_support(false);
    // Traps are told by their kind; where they happened is for a debugger.
    config.generate_address_map(false);
    config.wasm_backtrace_max_frames(None);
    config
}

fn pool(limits: &Limits) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(limits.instances);
    pool.total_core_instances(limits.instances.saturating_mul(CORE_INSTANCES_EACH));
    pool.total_memories(limits.instances);
    pool.total_tables(limits.instances.saturating_mul(2));
    pool.max_core_instances_per_component(MOST_CORE_INSTANCES);
    pool.max_memories_per_component(8);
    pool.max_tables_per_component(16);
    pool.max_memory_size(limits.memory);
    pool.table_elements(limits.table_elements);
    pool.linear_memory_keep_resident(KEPT);
    pool.table_keep_resident(4 << 10);
    pool
}
