//! The components at work in a server, for its start and for its operator.

use super::Entry;
use super::installer::Installer;
use crate::program;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::process::Command;
use tokenmill_http::{PolicyCounts, PolicyError, Upload};
use tokenmill_models::Cache;
use tokenmill_wasm::{Error, Kind, Limits, Policies, Reason, Runtime, Status};

/// What components run on. They are compiled by this program in a process apart, and kept compiled beside the
/// models.
pub(crate) fn runtime() -> Result<Runtime> {
    let program = program::path()?;
    let compiler = move || {
        let mut command = Command::new(&program);
        command.arg(program::POLICY_COMPILER);
        command
    };
    let cache = Cache::home().ok().map(|home| home.join("policies"));
    Ok(Runtime::new(Limits::default(), compiler, cache)?)
}

pub(crate) struct Running {
    policies: Policies,
    component_bytes: usize,
    default_sampler: Option<String>,
}

impl Running {
    pub(super) fn new(installer: Installer, default_sampler: Option<String>) -> Result<Self> {
        let runtime = runtime()?;
        let component_bytes = runtime.limits().component_bytes;
        let policies = Policies::new(runtime, installer.host.clone(), installer);
        Ok(Self { policies, component_bytes, default_sampler })
    }

    pub(super) fn load(&self, entry: &Entry) -> Result<()> {
        let Entry { name, kind, file, config, enforcing, sha256, .. } = entry;
        let Some(expected) = sha256 else {
            self.policies.put_file(name, Some(*kind), file, config, *enforcing)?;
            return Ok(());
        };
        let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let found: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        if found != *expected {
            bail!("`sha256` is {expected}, but that of {} is {found}", file.display());
        }
        self.policies.put(name, Some(*kind), &bytes, config, *enforcing)?;
        Ok(())
    }

    fn is_default(&self, name: &str) -> bool {
        self.default_sampler.as_deref() == Some(name)
    }
}

impl tokenmill_http::Policies for Running {
    fn list(&self) -> Vec<Value> {
        self.policies.list().iter().map(shown).collect()
    }

    fn get(&self, name: &str) -> Option<Value> {
        self.policies.get(name).as_ref().map(shown)
    }

    fn put(&self, upload: &Upload) -> Result<Value, PolicyError> {
        let Upload { name, kind, component, config, enforcing } = upload;
        let mut kind = match kind {
            Some(kind) => {
                Some(kind.parse::<Kind>().map_err(|error| PolicyError::Refused(error.to_string()))?)
            }
            None => None,
        };
        if name == tokenmill_grammar::SAMPLER {
            let what = format!("`{name}` belongs to the built-in policy of output forms");
            return Err(PolicyError::Conflict(what));
        }
        if kind == Some(Kind::Scheduler) && *enforcing {
            return Err(PolicyError::Refused("only sampling policies can be enforcing".to_owned()));
        }
        if self.is_default(name) {
            if kind == Some(Kind::Scheduler) {
                return Err(PolicyError::Conflict(format!("`{name}` samples all requests of this server")));
            }
            kind = Some(Kind::Sampler);
        }
        self.policies
            .put(name, kind, component, config, *enforcing)
            .map(|status| shown(&status))
            .map_err(refusal)
    }

    fn delete(&self, name: &str) -> Result<(), PolicyError> {
        if self.is_default(name) && self.policies.get(name).is_some() {
            return Err(PolicyError::Conflict(format!("`{name}` samples all requests of this server")));
        }
        self.policies.delete(name).map_err(refusal)
    }

    fn component_bytes(&self) -> usize {
        self.component_bytes
    }

    fn counts(&self) -> Vec<PolicyCounts> {
        self.policies.list().into_iter().map(counts).collect()
    }
}

fn shown(status: &Status) -> Value {
    // Numbers and strings: this cannot fail.
    serde_json::to_value(status).unwrap_or_default()
}

fn counts(status: Status) -> PolicyCounts {
    let health = status.health;
    let count = |reason: Reason| health.failures.get(&reason).copied().unwrap_or(0);
    PolicyCounts {
        name: status.name,
        kind: match status.kind {
            Kind::Scheduler => "scheduler",
            Kind::Sampler => "sampler",
        },
        calls: health.calls,
        busy_us: health.busy_us,
        failures: Reason::ALL.map(|reason| (reason.as_str(), count(reason))).into(),
        quarantined: health.quarantined,
    }
}

fn refusal(error: Error) -> PolicyError {
    match error {
        Error::Unknown(name) => PolicyError::Unknown(name),
        Error::Host(_) | Error::File { .. } => PolicyError::Host(error.to_string()),
        Error::Refused(_) | Error::Config(_) | Error::Failed { .. } => {
            PolicyError::Refused(error.to_string())
        }
    }
}
