//! The `tokenmill` binary: flags become a model, a backend, an engine and a server.
//!
//! Invariant: wiring only; nothing here decides how a request is served.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command speaks to the terminal")]

mod admin;
mod args;
mod backend;
mod bench;
mod generation;
mod models;
mod policies;
mod policy;
mod program;
mod progress;
mod run;
mod serve;
mod services;
mod text;
mod wiring;

use clap::{Parser, Subcommand};
use std::{io::IsTerminal, process::ExitCode};

/// An LLM inference server: OpenAI HTTP API in front, policies as plugins, compute as a loadable library.
#[derive(Parser)]
#[command(name = "tokenmill", version, propagate_version = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a model over the OpenAI HTTP API.
    Serve(Box<serve::Serve>),
    /// Answer one prompt on the terminal.
    Run(run::Run),
    /// Get a model into the cache.
    Pull(models::Pull),
    /// List the models in the cache.
    Models,
    /// Look at a backend library.
    #[command(subcommand)]
    Backend(backend::Backend),
    /// Check, measure or begin a policy.
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Measure prefill and decode speed of a model on a backend.
    Bench(bench::Bench),
    /// The process apart that `serve` and `run` start for hostile tokenizers and chat templates.
    #[command(hide = true, name = program::TEXT_WORKER)]
    TextWorker(text::Worker),
    /// The process apart that compiles a component, from standard input to standard output.
    #[command(hide = true, name = program::POLICY_COMPILER)]
    PolicyCompiler,
}

fn main() -> ExitCode {
    let args = Args::parse();

    let filter =
        tracing_subscriber::EnvFilter::try_from_env("TOKENMILL_LOG").unwrap_or_else(|_| "info".into());
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(colours)
        .with_writer(std::io::stderr)
        .init();
    let done = match args.command {
        Command::Serve(serve) => serve.run(),
        Command::Run(run) => run.run(),
        Command::Pull(pull) => pull.run(),
        Command::Models => models::list(),
        Command::Backend(backend) => backend.run(),
        Command::Bench(bench) => bench.run(),
        Command::TextWorker(worker) => worker.run(),
        Command::Policy(policy) => policy.run(),
        Command::PolicyCompiler => return policy::compile(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
