//! The policies that the operator names: flags and a file become a list, the list becomes policies at work.

mod builtin;
mod file;
mod installer;
mod running;

pub(crate) use builtin::native;
pub(crate) use installer::Installer;
pub(crate) use running::{Running, runtime};

use anyhow::{Context, Result, bail};
use clap::Args;
use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokenmill_wasm::Kind;

#[derive(Args)]
pub(crate) struct PolicyArgs {
    /// Load a sampling policy for requests with `"policy": {"sampler": "NAME"}`; may be given several times.
    #[arg(long = "sampler", value_name = "NAME=FILE", value_parser = named_file)]
    samplers: Vec<(String, PathBuf)>,
    /// Load the scheduling policy; it is called what its file is called.
    #[arg(long, value_name = "FILE")]
    scheduler: Option<PathBuf>,
    /// Configure a policy that a flag names; may be given several times.
    #[arg(long = "policy-config", value_name = "NAME=JSON|NAME=@FILE", value_parser = named_text)]
    configs: Vec<(String, String)>,
    /// Fail the requests of this sampling policy when it fails, instead of sampling without it; may be given
    /// several times.
    #[arg(long, value_name = "NAME")]
    enforcing: Vec<String>,
    /// Sample every request with this policy; requests cannot choose another.
    #[arg(long, value_name = "NAME")]
    default_sampler: Option<String>,
    /// The same in a JSON file: {"policies": [{"name", "kind", "file", "config", "enforcing", "sha256"}],
    /// "default_sampler"}.
    #[arg(long, value_name = "FILE")]
    policies: Option<PathBuf>,
}

/// What the operator wants, all of it read and none of it loaded.
#[derive(Default)]
pub(crate) struct Chosen {
    entries: Vec<Entry>,
    default_sampler: Option<String>,
}

struct Entry {
    /// The flag or file that named it.
    origin: String,
    name: String,
    kind: Kind,
    file: PathBuf,
    config: String,
    enforcing: bool,
    /// The only content that may be loaded; such a file is not watched.
    sha256: Option<String>,
}

impl PolicyArgs {
    pub(crate) fn resolve(&self) -> Result<Chosen> {
        let mut entries = Vec::new();
        for (name, file) in &self.samplers {
            entries.push(Entry::new("--sampler", name, Kind::Sampler, file));
        }
        if let Some(file) = &self.scheduler {
            let name = file.file_stem().map(|stem| stem.to_string_lossy().to_lowercase());
            let name = name.context("--scheduler: the file has no name")?;
            entries.push(Entry::new("--scheduler", &name, Kind::Scheduler, file));
        }
        for (name, text) in &self.configs {
            let entry = named(&mut entries, "--policy-config", name)?;
            entry.config = text_or_file(text).with_context(|| format!("--policy-config {name}"))?;
        }
        for name in &self.enforcing {
            let entry = named(&mut entries, "--enforcing", name)?;
            if entry.kind == Kind::Scheduler {
                bail!("--enforcing {name}: only sampling policies can fail a request");
            }
            entry.enforcing = true;
        }
        let mut chosen = Chosen { entries, default_sampler: self.default_sampler.clone() };
        if let Some(path) = &self.policies {
            file::read(path, &mut chosen).with_context(|| format!("--policies {}", path.display()))?;
        }
        chosen.check()?;
        Ok(chosen)
    }
}

impl Chosen {
    pub(crate) fn default_sampler(&self) -> Option<String> {
        self.default_sampler.clone()
    }

    fn check(&self) -> Result<()> {
        let mut names = HashSet::new();
        let mut schedulers = 0;
        for entry in &self.entries {
            let Entry { origin, name, .. } = entry;
            if !names.insert(name) {
                bail!("{origin}: there is a policy `{name}` already");
            }
            if name == tokenmill_grammar::SAMPLER {
                bail!("{origin}: the name `{name}` belongs to the built-in policy of output forms");
            }
            schedulers += usize::from(entry.kind == Kind::Scheduler);
            if schedulers > 1 {
                bail!("{origin}: there is a scheduler already");
            }
        }
        if let Some(name) = &self.default_sampler {
            let loaded = self.entries.iter().any(|entry| entry.name == *name && entry.kind == Kind::Sampler);
            if !loaded && !builtin::NAMES.contains(&name.as_str()) {
                bail!("--default-sampler {name}: there is no sampling policy of this name");
            }
        }
        Ok(())
    }

    /// Installs the built-in policies, then what was chosen. `None`: nothing was, and nothing can be added
    /// later unless `operated`.
    pub(crate) fn start(self, installer: Installer, operated: bool) -> Result<Option<Arc<Running>>> {
        builtin::install(&installer)?;
        if self.entries.is_empty() && !operated {
            return Ok(None);
        }
        let running = Running::new(installer, self.default_sampler)?;
        for entry in &self.entries {
            running.load(entry).with_context(|| entry.origin.clone())?;
        }
        Ok(Some(Arc::new(running)))
    }
}

impl Entry {
    fn new(flag: &str, name: &str, kind: Kind, file: &Path) -> Self {
        let origin = format!("{flag} {name}={}", file.display());
        let (name, file, config) = (name.to_owned(), file.to_owned(), String::new());
        Self { origin, name, kind, file, config, enforcing: false, sha256: None }
    }
}

fn named<'a>(entries: &'a mut [Entry], flag: &str, name: &str) -> Result<&'a mut Entry> {
    let found = entries.iter_mut().find(|entry| entry.name == name);
    found.with_context(|| format!("{flag} {name}: neither --sampler nor --scheduler names this policy"))
}

/// `@FILE` stands for the file's content.
pub(crate) fn text_or_file(text: &str) -> Result<String> {
    match text.strip_prefix('@') {
        Some(path) => fs::read_to_string(path).with_context(|| format!("cannot read {path}")),
        None => Ok(text.to_owned()),
    }
}

fn named_file(text: &str) -> Result<(String, PathBuf), String> {
    named_text(text).map(|(name, file)| (name, file.into()))
}

fn named_text(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, rest)) if !name.is_empty() && !rest.is_empty() => Ok((name.to_owned(), rest.to_owned())),
        _ => Err("expected a name, `=` and what it stands for".to_owned()),
    }
}

#[cfg(test)]
mod tests;
