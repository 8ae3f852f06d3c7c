//! First come, first served: the built-in scheduler as a component, to start from and to measure with.
//!
//! Every decoding sequence gets its token; prompts share the rest in order of arrival, each at most half of
//! what is left while others wait behind it. Chunked prefill beside decoding is Sarathi-Serve's
//! (arXiv 2403.02310).
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

pub use tokenmill_policy::Fcfs;

tokenmill_guest::export_scheduler!(Fcfs);
