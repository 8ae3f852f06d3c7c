//! `tokenmill policy …`: what a component is, what it costs, and a project to begin with.

mod new;

use crate::{
    models,
    policies::{native, runtime, text_or_file},
    services::Vocabulary,
    text,
};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde::Serialize;
use std::{
    fmt::Display,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};
use tokenmill_models::Dtype;
use tokenmill_policy::Host;
use tokenmill_wasm::Runtime;

/// Tokens that a policy is tried with if no model is named: Llama 2's number.
const TOKENS: u32 = 32_000;

#[derive(Subcommand)]
pub(crate) enum Policy {
    /// Say what a component imports and exports, and whether a server would take it; exit code 1 if not.
    Check(Subject),
    /// Measure what a policy costs at each step.
    Bench {
        #[command(flatten)]
        subject: Subject,
        /// Compare with the policy of this NAME that is compiled in.
        #[arg(long, value_name = "NAME")]
        native: Option<String>,
    },
    /// Write a small project: a policy, its test, and how to build it.
    New(new::New),
}

#[derive(Args)]
pub(crate) struct Subject {
    /// A WebAssembly component.
    file: PathBuf,
    /// The policy's configuration.
    #[arg(long, value_name = "JSON|@FILE", default_value = "", hide_default_value = true)]
    config: String,
    /// Let the policy see the tokens of this model: its folder, or its name.
    #[arg(long)]
    model: Option<String>,
    /// Write JSON.
    #[arg(long)]
    json: bool,
}

impl Policy {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Check(subject) => subject.check(),
            Self::Bench { subject, native } => subject.bench(native.as_deref()),
            Self::New(new) => new.run(),
        }
    }
}

impl Subject {
    fn check(self) -> Result<()> {
        let (runtime, bytes, config, host) = self.open()?;
        let report = tokenmill_wasm::check(&runtime, &bytes, &config, host);
        self.show(&report)?;
        if !report.ok {
            bail!("{} is no policy that a server would take", self.file.display());
        }
        Ok(())
    }

    fn bench(self, name: Option<&str>) -> Result<()> {
        let (runtime, bytes, config, host) = self.open()?;
        let native = name.map(|name| native(name, &config, host.clone())).transpose()?;
        let report = tokenmill_wasm::bench(&runtime, &bytes, &config, host, native)
            .with_context(|| self.file.display().to_string())?;
        self.show(&report)
    }

    fn open(&self) -> Result<(Runtime, Vec<u8>, String, Host)> {
        let runtime = runtime()?;
        let most = runtime.limits().component_bytes;
        let bytes = read(&self.file, most).with_context(|| format!("cannot read {}", self.file.display()))?;
        let config = text_or_file(&self.config).context("--config")?;
        Ok((runtime, bytes, config, host(self.model.as_deref())?))
    }

    fn show(&self, report: &(impl Display + Serialize)) -> Result<()> {
        match self.json {
            true => println!("{}", serde_json::to_string_pretty(report)?),
            false => println!("{report}"),
        }
        Ok(())
    }
}

/// The process apart: its last words are the reason, and nothing else.
pub(crate) fn compile() -> ExitCode {
    match tokenmill_wasm::compile_worker() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

/// A byte more than `most` at most, so that a file that is too large shows.
fn read(file: &Path, most: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(file)?.take(most as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn host(model: Option<&str>) -> Result<Host> {
    let Some(model) = model else { return Ok(Arc::new(Vocabulary { tokenizer: None, tokens: TOKENS })) };
    let dir = models::resolve(model, Dtype::default())?.path;
    let (tokenizer, _) = text::open(&dir)?;
    let tokens = tokenizer.vocab_size() as u32;
    Ok(Arc::new(Vocabulary { tokenizer: Some(Arc::new(tokenizer)), tokens }))
}
