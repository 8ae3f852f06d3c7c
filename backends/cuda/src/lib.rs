//! The CUDA backend: `Device` on an NVIDIA GPU, by the driver API alone.
//!
//! Kernels are compiled ahead of time (`kernels/`); there is no CUDA toolkit and no runtime library. One
//! rank is one GPU, one stream, one thread.
//!
//! Invariant: knows one step of one rank; no request, no file, no architecture of a model. After load it
//! allocates no device memory, and a step waits for nothing.

pub mod batch;
pub mod buffer;
mod context;
mod driver;
mod event;
mod gpu;
mod memory;
pub mod nccl;
pub mod ops;

pub use driver::Properties;
pub use event::Event;
pub use gpu::{Arg, Gpu, Grid};
pub use memory::{Memory, Pinned, Plain};
