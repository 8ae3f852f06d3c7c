//! The file of `--policies`.

use super::{Chosen, Entry};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;
use std::{fs, path::Path};
use tokenmill_wasm::Kind;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    policies: Vec<Policy>,
    default_sampler: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
    name: String,
    kind: String,
    /// From the folder of this file, unless it is absolute.
    file: String,
    /// A string is handed over as it is, anything else as JSON.
    #[serde(default)]
    config: Value,
    #[serde(default)]
    enforcing: bool,
    sha256: Option<String>,
}

/// Adds the content of a file to what flags have chosen.
pub(super) fn read(path: &Path, chosen: &mut Chosen) -> Result<()> {
    let text = fs::read_to_string(path)?;
    let file: File = serde_json::from_str(&text)?;
    if file.default_sampler.is_some() && chosen.default_sampler.is_some() {
        bail!("`default_sampler` is given by --default-sampler too");
    }
    chosen.default_sampler = chosen.default_sampler.take().or(file.default_sampler);
    let folder = path.parent().unwrap_or(Path::new(""));
    for (i, policy) in file.policies.into_iter().enumerate() {
        let place = format!("policies[{i}] ({})", policy.name);
        let mut entry = entry(policy, folder).with_context(|| place.clone())?;
        entry.origin = format!("--policies {}: {place}", path.display());
        chosen.entries.push(entry);
    }
    Ok(())
}

fn entry(policy: Policy, folder: &Path) -> Result<Entry> {
    let Ok(kind) = policy.kind.parse::<Kind>() else {
        bail!("`kind` must be sampler or scheduler");
    };
    if policy.enforcing && kind == Kind::Scheduler {
        bail!("`enforcing`: only sampling policies can fail a request");
    }
    let is_digest = |text: &String| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if policy.sha256.as_ref().is_some_and(|text| !is_digest(text)) {
        bail!("`sha256` must be 64 hexadecimal digits");
    }
    let config = match policy.config {
        Value::Null => String::new(),
        Value::String(text) => text,
        other => other.to_string(),
    };
    Ok(Entry {
        config,
        enforcing: policy.enforcing,
        sha256: policy.sha256.map(|text| text.to_lowercase()),
        ..Entry::new("", &policy.name, kind, &folder.join(policy.file))
    })
}
