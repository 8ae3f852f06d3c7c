//! `cargo xtask kernels`: every `.cu` of `kernels/` ahead of time into `target/kernels/`, where the crate
//! `tokenmill-kernels` finds what it embeds. Needs neither a CUDA toolkit nor a GPU.

mod compile;
mod gate;
mod include;
mod intent;
mod manifest;
mod nvrtc;
mod occupancy;
mod ptxas;
mod sass;
mod wheel;

use crate::process::root;
use anyhow::Result;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Kernels {
    /// Print what each kernel takes, and fail on spills and on matrix instructions that are not there.
    #[arg(long)]
    check: bool,
}

pub(crate) fn task(options: &Kernels) -> Result<()> {
    let mut manifest = compile::all()?;
    if options.check { gate::check(&mut manifest) } else { Ok(()) }
}

/// Compiles what is not up to date, and holds all of it to what it may take.
pub(crate) fn checked() -> Result<()> {
    task(&Kernels { check: true })
}

/// Compiles what is not up to date.
pub(crate) fn build() -> Result<()> {
    compile::all().map(drop)
}

/// Where everything made of the kernels lies.
fn folder() -> PathBuf {
    root().join("target/kernels")
}
