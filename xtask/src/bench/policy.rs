//! What policies in WebAssembly cost: components built now, on SmolLM2 and the null backend.

use super::report;
use crate::{
    plugins,
    process::{built, cargo, command, output, root, run},
};
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Policy {
    /// Folder of SmolLM2-135M-Instruct in bf16; without it `tokenmill pull` says where it is.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Show that everything runs: few repeats, and no result is filed.
    #[arg(long)]
    quick: bool,
}

pub(crate) fn measure(options: &Policy) -> Result<()> {
    plugins::build(false)?;
    let model = match &options.model {
        Some(model) => model.clone(),
        None => pull()?,
    };
    let mut example = cargo();
    example.args([
        "run",
        "--release",
        "--quiet",
        "--package",
        "tokenmill-wasm",
        "--example",
        "bench_policy",
        "--",
    ]);
    example.arg(root().join("target/plugins")).arg(model).args(options.quick.then_some("--quick"));
    let text = output(&mut example)?;
    if options.quick {
        println!("{text}");
        return Ok(());
    }
    let figures: Value = serde_json::from_str(&text).context("bench_policy printed no JSON object")?;
    report::write("policy", figures)
}

/// Where the model is; it is made if need be.
fn pull() -> Result<PathBuf> {
    run(cargo().args(["build", "--release", "--quiet", "--package", "tokenmill-cli"]))?;
    let text = output(command(built()?.join("tokenmill")).args(["pull", "SmolLM2-135M-Instruct"]))?;
    let last = text.lines().last().and_then(|line| line.rsplit_once(" is in "));
    Ok(last.context("`tokenmill pull` did not say where the model is")?.1.into())
}
