use std::time::Duration;

/// What a policy may take. The defaults suit policies compiled from Rust or C.
#[derive(Clone, Debug)]
pub struct Limits {
    /// `plan` or `pick` of a sampler, without the time that the device takes.
    pub sampling: Duration,
    /// More for `pick`, for each row that the policy asked to inspect: going through all logits of a row
    /// takes a policy a few hundred microseconds.
    pub inspected_row: Duration,
    /// `plan` of a scheduler.
    pub scheduling: Duration,
    /// Starting an instance and its `configure`. Never waited for by a step.
    pub configure: Duration,
    /// Bytes of linear memory of an instance.
    pub memory: usize,
    /// Bytes of stack.
    pub stack: usize,
    /// Elements of a table.
    pub table_elements: usize,
    /// Handles that an instance holds at once, masks for one.
    pub handles: usize,
    /// Bytes that one call into the host may bring along.
    pub hostcall_bytes: usize,
    /// Bytes of a `.wasm` file.
    pub component_bytes: usize,
    pub compile_time: Duration,
    /// Bytes of address space of the process that compiles.
    pub compile_memory: u64,
    /// Instances of all policies at once; a sampler has one per tenant. Each reserves 4 GiB of address
    /// space, so that code needs no bounds checks, and no memory until it is used.
    pub instances: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sampling: Duration::from_millis(2),
            inspected_row: Duration::from_micros(500),
            scheduling: Duration::from_millis(5),
            configure: Duration::from_secs(1),
            memory: 16 << 20,
            stack: 512 << 10,
            table_elements: 10_000,
            handles: 1_000,
            hostcall_bytes: 4 << 20,
            component_bytes: 8 << 20,
            compile_time: Duration::from_secs(10),
            compile_memory: 1 << 30,
            instances: 512,
        }
    }
}
