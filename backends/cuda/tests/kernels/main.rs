//! Every operation against f64 on the CPU: over the emulator, or on a real GPU with `TOKENMILL_REAL_GPU=1`.

#![allow(clippy::unwrap_used, clippy::panic)] // A test may panic, and so may its helpers.

mod attention;
mod copy;
mod embed;
mod gate;
mod linear;
mod norm;
mod rope;
mod rows;
mod sample;
mod support;
mod top_k;
