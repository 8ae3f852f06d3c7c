//! Policies as WebAssembly components: a component becomes a `Scheduler` or a `Sampler` of
//! `tokenmill-policy`, in a sandbox that can delay or reorder work but neither hang nor crash the host.
//!
//! A component is compiled in a process apart with bounded time and memory ([`compile_worker`]), linked
//! against nothing but `wit/policy.wit` (no WASI), and called with a deadline, a memory limit and checked
//! answers. A call that fails leaves the host's default for the step; five failures in a row put the policy
//! in quarantine, and [`Policies`] brings its last good version back.
//!
//! Decisions are reproducible: there is no clock and no randomness, and relaxed SIMD is deterministic, so the
//! same inputs give the same answer on every machine, unless a policy looks at the bits of a NaN. Only where
//! a call is *cut off* depends on time.
//!
//! Invariant: knows the contract and nothing of engines, requests, HTTP or files of models. The engine is
//! reached through [`Target`], the model's tokens through `tokenmill_policy::Host`.
#![deny(unsafe_code)]

mod answer;
mod apart;
mod artifact;
mod bench;
mod cache;
mod check;
mod config;
mod contract;
mod error;
mod handles;
mod health;
mod instance;
mod lend;
mod limits;
mod meter;
mod plugin;
mod policies;
mod runtime;
mod sampler;
mod sampling_host;
mod scheduler;
mod scheduling_host;
mod services_host;
mod shown;
mod state;
mod stock;
mod synthetic;
mod watch;

pub use apart::compile_worker;
pub use bench::{BenchReport, Native, Timing, bench};
pub use check::{CheckReport, check};
pub use error::{Error, Reason};
pub use health::Health;
pub use limits::Limits;
pub use plugin::{Kind, Plugin};
pub use policies::{Policies, State, Status, Target};
pub use runtime::Runtime;
