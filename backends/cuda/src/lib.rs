//! The CUDA backend: `Device` on an NVIDIA GPU, by the driver API alone.
//!
//! Kernels are compiled ahead of time (`kernels/`); there is no CUDA toolkit and no runtime library. One
//! rank is one GPU, one stream, one thread.
//!
//! Invariant: knows one step of one rank; no request, no file, no architecture of a model. After load it
//! allocates no device memory, and a step waits for nothing.

pub mod batch;
pub mod buffer;
mod completion;
mod context;
pub mod device;
mod driver;
mod event;
mod gpu;
mod graph;
mod memory;
pub mod nccl;
pub mod ops;
mod platform;
mod weights;

pub use device::Cuda;
pub use driver::Properties;
pub use event::Event;
pub use gpu::{Arg, Gpu, Grid};
pub use graph::Graph;
pub use memory::{Memory, Pinned, Plain};
pub use platform::{CudaPlatform, tm_backend};
