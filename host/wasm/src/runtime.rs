use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use wasmtime::component::{Component, Linker};
use wasmtime::{Engine, EngineWeak};

use crate::apart::{self, Compiler};
use crate::cache::Cache;
use crate::state::State;
use crate::{Error, Limits, config, contract};

/// How often a call that runs is looked at.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// Runs policies; one for a process. Cheap to clone.
#[derive(Clone)]
pub struct Runtime(Arc<Inner>);

struct Inner {
    engine: Engine,
    linker: Linker<State>,
    limits: Limits,
    compiler: Box<Compiler>,
    cache: Option<Cache>,
}

impl Runtime {
    /// `compiler` starts a process that calls [`crate::compile_worker`] and does nothing else; its standard
    /// streams are taken. Compiled policies are kept in `cache`, a folder that is made if need be and that
    /// only this user may open.
    pub fn new(
        limits: Limits,
        compiler: impl Fn() -> Command + Send + Sync + 'static,
        cache: Option<PathBuf>,
    ) -> Result<Self, Error> {
        let cannot = |error: wasmtime::Error| Error::Host(format!("{error:#}"));
        let engine = config::running(&limits).map_err(cannot)?;
        let linker = contract::linker(&engine).map_err(cannot)?;
        let cache = cache.map(|folder| Cache::open(&folder, &engine)).transpose()?;
        tick(engine.weak())?;
        Ok(Self(Arc::new(Inner { engine, linker, limits, compiler: Box::new(compiler), cache })))
    }

    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    pub(crate) fn linker(&self) -> &Linker<State> {
        &self.0.linker
    }

    /// The machine code of a component whose sha256 is `id`.
    pub(crate) fn compile(&self, id: &str, component: &[u8]) -> Result<Component, Error> {
        let Inner { engine, limits, compiler, cache, .. } = &*self.0;
        let kept = cache.as_ref().and_then(|cache| cache.get(id)?.load(engine).ok());
        if let Some(component) = kept {
            return Ok(component);
        }
        let artifact = apart::compile(compiler, limits, component)?;
        let loaded = artifact.load(engine).map_err(|error| Error::Refused(format!("{error:#}")))?;
        if let Some(cache) = cache {
            cache.put(id, &artifact);
        }
        Ok(loaded)
    }
}

/// Lets deadlines pass for as long as the engine exists.
fn tick(engine: EngineWeak) -> Result<(), Error> {
    let ticking = move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            thread::sleep(TICK);
        }
    };
    let started = thread::Builder::new().name("policy-ticks".into()).spawn(ticking);
    started.map(drop).map_err(|error| Error::Host(error.to_string()))
}
