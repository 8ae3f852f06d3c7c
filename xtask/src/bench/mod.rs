//! `cargo xtask bench …`: each measures ours and the peer in one run and writes one JSON file.

mod cpu;
mod llama;
mod policy;
mod report;
mod stats;

use crate::process::{cargo, output};
use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde_json::Value;
use std::path::PathBuf;

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Decode and prefill of SmolLM2 on this machine's cores, against llama.cpp.
    Cpu(Cpu),
    /// The host's own time per step and per cached token, over the null backend.
    Engine,
    /// SSE frames per second and added time to first token, over the null backend.
    Http,
    /// Policies in WebAssembly: calls, instances, the whole engine, a runaway, masks of JSON schemas.
    Policy(policy::Policy),
    /// Keeps one core busy until killed (the competitor of `bench cpu`).
    #[command(hide = true)]
    Spin,
}

#[derive(Args)]
pub(crate) struct Cpu {
    /// Folder with llama-bench, llama-batched-bench and llama-quantize; built from source if not given.
    #[arg(long, env = "LLAMA_CPP_BIN")]
    llama: Option<PathBuf>,
    /// Measurements of each figure.
    #[arg(long, default_value_t = 5)]
    repeats: u32,
}

pub(crate) fn run(which: Bench) -> Result<()> {
    match which {
        Bench::Cpu(options) => cpu::run(&options),
        Bench::Engine => example("engine", "tokenmill-engine", "bench_engine"),
        Bench::Http => example("http", "tokenmill-http", "bench_http"),
        Bench::Policy(options) => policy::measure(&options),
        Bench::Spin => loop {
            std::hint::spin_loop();
        },
    }
}

/// Runs an example program that prints one JSON object, and files it.
fn example(name: &str, package: &str, program: &str) -> Result<()> {
    let text =
        output(cargo().args(["run", "--release", "--quiet", "--package", package, "--example", program]))?;
    let figures: Value =
        serde_json::from_str(&text).with_context(|| format!("{program} printed no JSON object"))?;
    report::write(name, figures)
}
