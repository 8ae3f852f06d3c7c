//! An engine stepped by hand, and when its tokens come.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokenmill_backend::{Backend, Load, Model};
use tokenmill_engine::{Config, Engine, Event, Handle, Output, Params, Progress, Request, Samplers};
use tokenmill_policy::Fcfs;

/// An engine whose clock counts steps.
pub(crate) struct Pace {
    engine: Engine,
    pub(crate) handle: Handle,
    steps: u64,
}

impl Pace {
    pub(crate) fn new(model: Model, seqs: u32) -> Self {
        let config = Config { max_seqs: seqs, ..Config::default() };
        let engine = Engine::new(model, Box::new(Fcfs::default()), Samplers::default(), config).unwrap();
        Self { handle: engine.handle(), engine, steps: 0 }
    }

    pub(crate) fn submit(&self, request: Request, tokens: &Tokens) {
        self.handle.submit(request, Box::new(tokens.clone())).unwrap();
    }

    pub(crate) fn step(&mut self) -> Progress {
        self.steps += 1;
        self.engine.step(|| self.steps)
    }

    pub(crate) fn finish(&mut self) {
        while self.step() == Progress::Worked {}
    }
}

/// Request number `i` of a run; it ends at its length.
pub(crate) fn request(i: u32, prompt: u32, max_tokens: u32, sampler: Option<&str>) -> Request {
    Request {
        prompt: (0..prompt).map(|at| 100 + (at * 37 + i * 101) % 9000).collect(),
        sampling: Params { seed: u64::from(i), ..Params::default() },
        n: 1,
        max_tokens,
        sampler: sampler.map(str::to_owned),
        ..Request::default()
    }
}

/// What some requests were sent, and the milliseconds between a request's tokens.
#[derive(Clone, Default)]
pub(crate) struct Tokens {
    shared: Arc<Mutex<Sent>>,
    last: Option<Instant>,
}

#[derive(Default)]
pub(crate) struct Sent {
    pub(crate) count: u64,
    /// Differs if any token does.
    pub(crate) hash: u64,
    pub(crate) gaps_ms: Vec<f64>,
    pub(crate) failed: u64,
}

impl Tokens {
    /// All that was sent so far.
    pub(crate) fn take(&self) -> Sent {
        std::mem::take(&mut self.shared.lock().unwrap())
    }
}

impl Output for Tokens {
    fn deliver(&mut self, event: Event<'_>) -> bool {
        let mut sent = self.shared.lock().unwrap();
        match event {
            Event::Token { token, .. } => {
                sent.count += 1;
                sent.hash = (sent.hash.rotate_left(5) ^ u64::from(token)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let now = Instant::now();
                if let Some(last) = self.last.replace(now) {
                    sent.gaps_ms.push((now - last).as_secs_f64() * 1e3);
                }
            }
            Event::Failed(_) => sent.failed += 1,
            _ => {}
        }
        true
    }
}

/// The backend `name`, which cargo builds as a dev-dependency: beside this example, or in `deps`.
fn library(name: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let file = format!("{}tokenmill_{name}{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let folders = exe.ancestors().skip(1).take(2);
    let near = folders.flat_map(|folder| [folder.join("deps").join(&file), folder.join(&file)]);
    near.into_iter().find(|path| path.exists()).unwrap()
}

pub(crate) fn model(backend: &str, dir: &Path, seqs: u32, kv_bytes: u64, options: &str) -> Model {
    let load = Load {
        dir,
        devices: &[0],
        tensor_parallel: 1,
        block_tokens: 16,
        max_tokens: Config::default().max_batched_tokens,
        max_rows: seqs,
        max_seqs: seqs,
        depth: 2,
        kv_bytes,
        options,
        progress: None,
    };
    Backend::open(&library(backend)).unwrap().load(&load).unwrap()
}
