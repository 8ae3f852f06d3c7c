//! One server on a free port, with its engine's thread.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokenmill_backend::{Backend, Load};
use tokenmill_engine::{Config, Engine, Handle};
use tokenmill_http::{App, Card, Defaults, Limits, serve};
use tokenmill_policy::{Fcfs, Samplers};
use tokenmill_text::{ChatTemplate, Tokenizer};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// A server to start; `Default` is the null backend under the fixture's tokenizer.
pub struct Setup {
    /// The model directory.
    pub dir: PathBuf,
    /// `None`: the null backend.
    pub backend: Option<Backend>,
    /// Options of the backend's load, lines `key=value`.
    pub options: String,
    /// Bytes of the KV pool; 0: the backend decides.
    pub kv_bytes: u64,
    pub engine: Config,
    pub limits: Limits,
    pub tokenizer: bool,
    pub api_keys: Vec<String>,
    pub defaults: Defaults,
    pub template_kwargs: Vec<String>,
    pub ignore_end_tokens: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            dir: fixture("llama-gqa"),
            backend: None,
            options: String::new(),
            kv_bytes: 0,
            engine: Config::default(),
            limits: Limits { connections_per_ip: 4096, ..Limits::default() },
            tokenizer: true,
            api_keys: Vec::new(),
            defaults: Defaults::default(),
            template_kwargs: Vec::new(),
            ignore_end_tokens: false,
        }
    }
}

/// A model directory of `tests/fixtures/models`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/models").join(name)
}

/// The library of a dev-dependency: cargo puts it beside the test.
pub fn library(name: &str) -> PathBuf {
    let file = format!("{}{name}{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    std::env::current_exe().unwrap().parent().unwrap().join(file)
}

/// A server that serves until it is dropped.
pub struct Running {
    pub address: SocketAddr,
    pub engine: Handle,
    shutdown: Option<oneshot::Sender<()>>,
    http: Option<JoinHandle<()>>,
    steps: Option<JoinHandle<()>>,
}

impl Setup {
    pub fn start(self) -> Running {
        let dir = self.dir;
        let backend = self.backend.unwrap_or_else(|| Backend::open(&library("tokenmill_null")).unwrap());
        let load = Load {
            dir: &dir,
            devices: &[0],
            tensor_parallel: 1,
            block_tokens: 16,
            max_tokens: self.engine.max_batched_tokens,
            max_rows: self.engine.max_seqs.max(self.engine.max_batched_tokens.min(512)),
            max_seqs: self.engine.max_seqs,
            depth: 2,
            kv_bytes: self.kv_bytes,
            options: &self.options,
            progress: None,
        };
        let model = backend.load(&load).unwrap();
        let engine = Engine::new(model, Box::new(Fcfs::default()), Samplers::default(), self.engine).unwrap();
        let handle = engine.handle();
        let started = Instant::now();
        let steps = std::thread::spawn(move || engine.run(|| started.elapsed().as_micros() as u64));
        let tokenizer = Arc::new(Tokenizer::from_dir(&dir).unwrap());
        let card = Card {
            name: "llama-gqa".to_owned(),
            aliases: vec!["org/alias".to_owned()],
            end_tokens: if self.ignore_end_tokens { Vec::new() } else { tokenizer.eos_ids().to_vec() },
        };
        let app = App {
            engine: handle.clone(),
            engine_start: started,
            card,
            template: ChatTemplate::from_dir(&dir).unwrap().filter(|_| self.tokenizer),
            tokenizer: self.tokenizer.then_some(tokenizer),
            template_kwargs: self.template_kwargs,
            defaults: self.defaults,
            api_keys: self.api_keys,
            seed: Some(7),
            limits: self.limits,
            grammars: None,
            default_sampler: None,
            policies: None,
        };
        let (shutdown, asked) = oneshot::channel();
        let (address_out, address) = std::sync::mpsc::channel();
        let http = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                address_out.send(listener.local_addr().unwrap()).unwrap();
                serve(listener, app, async { _ = asked.await }).await.unwrap();
            });
        });
        let address = address.recv().unwrap();
        Running { address, engine: handle, shutdown: Some(shutdown), http: Some(http), steps: Some(steps) }
    }
}

impl Running {
    /// What SIGTERM does.
    pub fn begin_shutdown(&mut self) {
        drop(self.shutdown.take());
    }

    /// Waits until `serve` has returned and the engine's thread has ended.
    pub fn wait(&mut self) {
        self.begin_shutdown();
        if let Some(thread) = self.http.take() {
            thread.join().unwrap();
        }
        if let Some(thread) = self.steps.take() {
            self.engine.drain();
            thread.join().unwrap();
        }
    }

    /// Waits until no sequence runs or waits and no block is in use; panics when that takes over 10 s.
    pub fn settle(&self) {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let stats = self.engine.stats();
            let blocks = stats.blocks;
            if stats.running == 0 && stats.waiting == 0 && blocks.used == 0 {
                assert_eq!(blocks.free + blocks.cached, blocks.total, "{stats:?}");
                return;
            }
            assert!(Instant::now() < until, "the engine did not come to rest: {stats:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.wait();
        }
    }
}
