//! `cargo xtask fuzz`: libFuzzer over the targets of `tests/fuzz`, with coverage of the crates of this workspace.

use crate::process::{built, cargo, command, root, run};
use anyhow::{Context, Result, bail};
use std::fs;

#[derive(clap::Args)]
pub(crate) struct Fuzz {
    /// A folder of tests/fuzz/seeds; all of them one after the other if none is named.
    target: Option<String>,
    /// For each target.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Bytes of an input at most.
const MOST_BYTES: &str = "-max_len=16384";
/// Seconds that one input may take on a busy machine.
const PATIENCE: &str = "-timeout=30";

/// Inputs that found something new are kept in `target/fuzz/corpus`, for the next run; what fails is written to `target/fuzz`.
pub(crate) fn task(fuzz: &Fuzz) -> Result<()> {
    let targets = targets()?;
    let asked: Vec<&String> =
        targets.iter().filter(|target| fuzz.target.as_ref().is_none_or(|name| name == *target)).collect();
    if asked.is_empty() {
        bail!("there are the targets {}", targets.join(", "));
    }
    // With the features that the whole workspace asks for, so that no dependency is built again.
    run(cargo().env("RUSTC_WORKSPACE_WRAPPER", root().join("tests/fuzz/instrument")).args([
        "build",
        "--release",
        "--workspace",
        "--bin",
        "fuzz",
        "--features",
        "tokenmill-fuzz/libfuzzer",
    ]))?;
    for target in asked {
        let corpus = root().join("target/fuzz/corpus").join(target);
        fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
        run(command(built()?.join("fuzz"))
            .env("TOKENMILL_FUZZ", target)
            .args([&corpus, &root().join("tests/fuzz/seeds").join(target)])
            .args([MOST_BYTES, PATIENCE, "-verbosity=0", "-print_final_stats=1"])
            .arg(format!("-max_total_time={}", fuzz.seconds))
            .arg(format!("-artifact_prefix=target/fuzz/{target}-")))?;
    }
    Ok(())
}

/// All targets for a few seconds each: what a change broke is mostly found at once.
pub(crate) fn all(seconds: u32) -> Result<()> {
    task(&Fuzz { target: None, seconds })
}

fn targets() -> Result<Vec<String>> {
    let folders = fs::read_dir(root().join("tests/fuzz/seeds")).context("tests/fuzz/seeds")?;
    let mut names: Vec<String> =
        folders.flatten().map(|folder| folder.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}
