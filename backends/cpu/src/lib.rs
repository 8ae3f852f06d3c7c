//! The CPU backend: `Device` on threads and SIMD.
//!
//! Invariant: knows one step of one rank; no request, no file, no architecture of a model.

#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
mod batch;
mod buffer;
mod cache;
pub mod device;
mod isa;
mod linear;
mod math;
mod memory;
mod panel;
mod paths;
mod platform;
pub mod probe;
mod ranks;
pub mod reference;
mod rope;
mod rows;
mod sample;
mod simd;
mod stages;
mod system;
mod threads;
mod weight;

#[cfg(test)]
mod tests;

pub use device::Cpu;
pub use platform::{CpuPlatform, tm_backend};
