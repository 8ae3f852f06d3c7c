//! Turns a `Device` into a backend library: the C ABI of `tokenmill.h` around `backends/model`.
//!
//! A device library implements [`Platform`] and says `export_backend!` once.
//!
//! Invariant: knows no kernel and no architecture; every C function catches panics; each rank has one
//! thread, and no other thread touches its device.

pub mod options;
pub mod platform;

pub use options::Options;
pub use platform::{Platform, Ranks};
pub use tokenmill_backend_abi as abi;
pub use tokenmill_backend_model as model;
