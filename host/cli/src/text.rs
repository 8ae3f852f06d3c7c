//! The tokenizer and chat template of a model, tried and rendered in a process apart.

use crate::program;
use anyhow::Result;
use clap::Args;
use std::{
    path::{Path, PathBuf},
    process::Command,
};
use tokenmill_text::{ChatTemplate, TextError, Tokenizer};

#[derive(Args)]
pub(crate) struct Worker {
    dir: PathBuf,
}

impl Worker {
    pub(crate) fn run(self) -> Result<()> {
        Ok(tokenmill_text::work(&self.dir)?)
    }
}

pub(crate) fn open(dir: &Path) -> Result<(Tokenizer, Option<ChatTemplate>), TextError> {
    let program = program::path().map_err(|e| TextError::File { path: dir.into(), reason: e.to_string() })?;
    let folder = dir.to_path_buf();
    tokenmill_text::open_apart(dir, move || {
        let mut command = Command::new(&program);
        command.arg(program::TEXT_WORKER).arg(&folder);
        command
    })
}
