//! Operations: each chooses kernels, grids and arguments, and queues them.

/// `operation_type`: a kernel's name for a working type.
macro_rules! named {
    ($dtype:expr, $operation:literal) => {
        match $dtype {
            tokenmill_backend_model::device::Dtype::Bf16 => concat!($operation, "_bf16"),
            tokenmill_backend_model::device::Dtype::F16 => concat!($operation, "_f16"),
            tokenmill_backend_model::device::Dtype::F32 => concat!($operation, "_f32"),
        }
    };
}

pub mod attention;
pub mod copy;
pub mod embed;
pub mod gate;
pub mod linear;
pub mod norm;
pub mod rope;
pub mod rows;
pub mod sample;
pub mod top_k;
