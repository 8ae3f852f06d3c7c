//! Tasks of the repository: `cargo xtask test`, `cargo xtask plugins`, `cargo xtask kernels`, `cargo xtask gpu`,
//! `cargo xtask bench …`.
//!
//! Invariant: runs other programs and reads what they print; links nothing of Tokenmill.
#![allow(clippy::print_stdout, reason = "a task speaks to the terminal")]

mod bench;
mod fuzz;
mod gpu;
mod kernels;
mod plugins;
mod process;
mod test;

use clap::{Parser, Subcommand};

/// Build, test and measure Tokenmill.
#[derive(Parser)]
#[command(name = "cargo xtask", version)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what the tests need, then run all of them.
    Test,
    /// Build the policies in plugins/ as components into target/plugins/.
    Plugins(plugins::Plugins),
    /// Compile kernels/*.cu ahead of time into target/kernels/, from where a build embeds them.
    Kernels(kernels::Kernels),
    /// Make target/gpu-check/: what a machine with an NVIDIA GPU needs to check and measure the CUDA backend.
    Gpu,
    /// Look for inputs that the host does not stand, with libFuzzer.
    Fuzz(fuzz::Fuzz),
    /// Measure, against a named peer in the same run, and write JSON to bench/results/.
    #[command(subcommand)]
    Bench(bench::Bench),
}

fn main() -> anyhow::Result<()> {
    match Args::parse().task {
        Task::Test => test::all(),
        Task::Plugins(which) => plugins::task(&which),
        Task::Kernels(options) => kernels::task(&options),
        Task::Gpu => gpu::prepare(),
        Task::Fuzz(which) => fuzz::task(&which),
        Task::Bench(which) => bench::run(which),
    }
}
