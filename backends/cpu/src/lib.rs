//! The CPU backend: `Device` on threads and SIMD.
//!
//! Invariant: knows one step of one rank; no request, no file, no architecture of a model.

pub mod device;
pub mod reference;

pub use device::Cpu;
