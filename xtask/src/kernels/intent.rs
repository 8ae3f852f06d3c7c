//! Which machine instructions which kernels are written to become.

/// Tensor cores.
const MATRIX: &str = "HMMA";
/// ldmatrix.
const LOAD_MATRIX: &str = "LDSM";
/// cp.async.
const ASYNC_COPY: &str = "LDGSTS";

pub(super) struct Intent {
    /// Of the names of the kernels. The first intent that fits a kernel holds for it.
    pub(super) prefix: &'static str,
    pub(super) instructions: &'static [&'static str],
}

pub(super) const INTENTS: &[Intent] = &[
    Intent { prefix: "gemm_small_", instructions: &[MATRIX, LOAD_MATRIX, ASYNC_COPY] },
    Intent { prefix: "gemm_", instructions: &[MATRIX, LOAD_MATRIX, ASYNC_COPY] },
    Intent { prefix: "attention_prefill_", instructions: &[MATRIX, LOAD_MATRIX, ASYNC_COPY] },
    // Keys and values go from global memory straight into the matrix instruction.
    Intent { prefix: "attention_decode_", instructions: &[MATRIX] },
];

/// Shown in the table: those above, and what would tell of local memory.
pub(super) const SHOWN: &[&str] = &[MATRIX, LOAD_MATRIX, ASYNC_COPY, "STL", "LDL"];

impl Intent {
    pub(super) fn of(kernel: &str) -> Option<&'static Self> {
        INTENTS.iter().find(|intent| intent.is_for(kernel))
    }

    /// Kernels of f32 never use the tensor cores.
    pub(super) fn is_for(&self, kernel: &str) -> bool {
        kernel.starts_with(self.prefix) && !kernel.contains("_f32")
    }
}
