//! Ranks on several GPUs: sums within a stage, rows and tokens between stages, by NCCL.
//!
//! NCCL is found at run time and only where there is more than one rank. Its communicators block in the
//! device, not in the calls; whoever waits for a rank that failed is released by `Group::abort`.

mod communicator;
mod group;
mod library;

pub use communicator::Watch;
pub use group::{Comm, Group, Membership};
