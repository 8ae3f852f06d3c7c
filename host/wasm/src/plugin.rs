use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use sha2::{Digest, Sha256};
use tokenmill_policy::{Host, Sampler, Scheduler};
use wasmtime::component::Component;

use crate::contract::{self, sampler, scheduler};
use crate::error::Failure;
use crate::health::Record;
use crate::instance::{Exports, Instance, Recipe};
use crate::sampler::Tenants;
use crate::scheduler::Planner;
use crate::stock::Stock;
use crate::{Error, Health, Limits, Runtime, synthetic};

/// Bytes of a configuration.
const MOST_CONFIG: usize = 1 << 20;

/// What a policy decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Scheduler,
    Sampler,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheduler => "scheduler",
            Self::Sampler => "sampler",
        })
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "scheduler" => Ok(Self::Scheduler),
            "sampler" => Ok(Self::Sampler),
            _ => Err(Error::Refused(format!("{text:?} is neither scheduler nor sampler"))),
        }
    }
}

/// A component that was compiled, linked and configured. Cheap to clone.
#[derive(Clone)]
pub struct Plugin(Arc<Inner>);

struct Inner {
    kind: Kind,
    id: String,
    contract: String,
    bytes: usize,
    recipe: Arc<Recipe>,
    stock: Stock,
}

impl Plugin {
    /// Compiles a component in a process apart, links it, and configures a first instance. `name` is for
    /// log lines.
    pub fn load(
        runtime: &Runtime,
        name: &str,
        bytes: &[u8],
        config: &str,
        host: Host,
    ) -> Result<Self, Error> {
        let component = compile(runtime, bytes, config)?;
        Self::link(runtime, name, component, config, host)
    }

    /// Links and configures what was compiled.
    pub(crate) fn link(
        runtime: &Runtime,
        name: &str,
        Compiled { id, bytes, component }: Compiled,
        config: &str,
        host: Host,
    ) -> Result<Self, Error> {
        let claim = contract::claim(runtime.engine(), &component).map_err(Error::Refused)?;
        let refused = |error: wasmtime::Error| Error::Refused(format!("{error:#}"));
        let pre = runtime.linker().instantiate_pre(&component).map_err(refused)?;
        let exports = match claim.kind {
            Kind::Scheduler => Exports::Scheduler(scheduler::GuestIndices::new(&pre).map_err(refused)?),
            Kind::Sampler => Exports::Sampler(sampler::GuestIndices::new(&pre).map_err(refused)?),
        };
        let recipe = Arc::new(Recipe {
            runtime: runtime.clone(),
            pre,
            exports,
            name: name.into(),
            config: config.into(),
            services: host,
            record: Arc::new(Record::default()),
        });
        let stock = Stock::open(recipe.clone(), patience(claim.kind, runtime.limits()))?;
        Ok(Self(Arc::new(Inner { kind: claim.kind, id, contract: claim.version, bytes, recipe, stock })))
    }

    pub fn name(&self) -> &str {
        &self.0.recipe.name
    }

    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// sha256 of the file, in hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// Version of the contract that it was built against, as `0.1.0`.
    pub fn contract(&self) -> &str {
        &self.0.contract
    }

    /// Length of the file.
    pub fn bytes(&self) -> usize {
        self.0.bytes
    }

    pub fn health(&self) -> Health {
        self.record().snapshot()
    }

    /// Runs it on made-up views. What a policy declares undecided is no failure.
    pub fn self_test(&self) -> Result<(), Error> {
        Ok(synthetic::dry_run(self)?)
    }

    /// A sampler with an instance per tenant.
    pub fn sampler(&self) -> Result<Box<dyn Sampler>, Error> {
        self.is(Kind::Sampler)?;
        self.0.stock.wait();
        Ok(Box::new(Tenants::new(self.clone())))
    }

    pub fn scheduler(&self) -> Result<Box<dyn Scheduler>, Error> {
        self.is(Kind::Scheduler)?;
        self.0.stock.wait();
        Ok(Box::new(Planner::new(self.clone())))
    }

    pub(crate) fn is(&self, kind: Kind) -> Result<(), Error> {
        if self.0.kind == kind {
            return Ok(());
        }
        Err(Error::Refused(format!("it is a {}, not a {kind}", self.0.kind)))
    }

    pub(crate) fn limits(&self) -> &Limits {
        self.0.recipe.runtime.limits()
    }

    pub(crate) fn vocab(&self) -> u32 {
        self.0.recipe.services.vocab()
    }

    pub(crate) fn record(&self) -> &Record {
        &self.0.recipe.record
    }

    pub(crate) fn recipe(&self) -> &Recipe {
        &self.0.recipe
    }

    /// A fresh instance, configured. It takes no longer than an answer may.
    pub(crate) fn instance(&self) -> Result<Instance, Failure> {
        self.0.stock.take(patience(self.0.kind, self.limits()))
    }
}

fn patience(kind: Kind, limits: &Limits) -> Duration {
    match kind {
        Kind::Scheduler => limits.scheduling,
        Kind::Sampler => limits.sampling,
    }
}

/// A component that was not looked into yet.
pub(crate) struct Compiled {
    pub(crate) id: String,
    pub(crate) bytes: usize,
    pub(crate) component: Component,
}

pub(crate) fn compile(runtime: &Runtime, bytes: &[u8], config: &str) -> Result<Compiled, Error> {
    vet(bytes, config, runtime.limits())?;
    let id = hex(&Sha256::digest(bytes));
    let component = runtime.compile(&id, bytes)?;
    Ok(Compiled { id, bytes: bytes.len(), component })
}

/// What can be said of a file without compiling it.
fn vet(bytes: &[u8], config: &str, limits: &Limits) -> Result<(), Error> {
    let refused = |why: String| Err(Error::Refused(why));
    if config.len() > MOST_CONFIG {
        return Err(Error::Config(format!(
            "it has {} bytes, at most {MOST_CONFIG} are passed on",
            config.len()
        )));
    }
    if bytes.len() > limits.component_bytes {
        return refused(format!(
            "{} bytes are more than the {} allowed",
            bytes.len(),
            limits.component_bytes
        ));
    }
    match bytes {
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Ok(()),
        [0, b'a', b's', b'm', _, _, 0, 0, ..] => {
            refused("it is a core module; build a component (see plugins/README.md)".into())
        }
        [0, b'a', b's', b'm', ..] => refused("it is a component of another format version".into()),
        [0x7f, b'E', b'L', b'F', ..] => refused("compiled code is never loaded; pass the .wasm file".into()),
        _ => refused("it is not WebAssembly".into()),
    }
}

/// Hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
