//! The library as a host opens it: `libtokenmill_cuda.so` through its ABI, over the emulator's driver or on a real
//! GPU (`TOKENMILL_REAL_GPU=1`).

#![allow(clippy::unwrap_used, clippy::panic)] // A test may panic, and so may its helpers.

mod mixed;
mod models;
mod smollm2;
mod support;
