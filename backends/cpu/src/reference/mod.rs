//! Every operation as plain loops: the oracle the fast kernels are tested against.
//!
//! Obvious code on slices, sums in f64 where a sum is taken, no layouts, no threads.

pub mod attention;
pub mod rows;
pub mod sample;
