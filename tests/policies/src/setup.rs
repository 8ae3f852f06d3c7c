use std::path::{Path, PathBuf};

use tokenmill_backend::{Backend, Load};
use tokenmill_engine::{Config, Engine, Params, Progress, Request, Samplers};
use tokenmill_policy::{Fcfs, Host, Named, Sampler};

use crate::answer::{Answer, Recorder};
use crate::policy::{beside, component, host, native};

/// An engine to run requests on.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// A directory of `tests/fixtures/models`.
    pub model: &'static str,
    /// Bytes of the KV pool; 0: the backend decides.
    pub kv_bytes: u64,
    pub engine: Config,
    pub enforcing: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self { model: "llama-gqa", kv_bytes: 0, engine: Config::default(), enforcing: false }
    }
}

/// Makes a policy of a name and a configuration.
type Make = fn(&str, &str, Host) -> Box<dyn Sampler>;

/// A directory of `tests/fixtures/models`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/models").join(name)
}

impl Setup {
    /// Runs requests together under a policy, compiled in and as a component, which must not differ.
    pub fn run(&self, name: &str, config: &str, requests: &[Request]) -> Vec<Answer> {
        let requests: Vec<Request> = requests
            .iter()
            .map(|request| Request { sampler: Some(name.to_owned()), ..request.clone() })
            .collect();
        let run = |make: Make| self.run_on(self.start(Some((name, config, make))), &requests);
        let (native, component) = (run(native), run(component));
        assert_eq!(native, component, "{name} compiled in, and as a component");
        native
    }

    /// Runs requests together without a policy.
    pub fn run_plain(&self, requests: &[Request]) -> Vec<Answer> {
        self.run_on(self.start(None), requests)
    }

    /// Nothing falls back on a default, and every block comes back.
    fn run_on(&self, mut engine: Engine, requests: &[Request]) -> Vec<Answer> {
        let handle = engine.handle();
        let answers: Vec<Recorder> = requests.iter().map(|_| Recorder::default()).collect();
        for (request, answer) in requests.iter().zip(&answers) {
            handle.submit(request.clone(), Box::new(answer.clone())).unwrap();
        }
        let mut now = 0;
        while engine.step(|| now) == Progress::Worked {
            assert_eq!(engine.check(), Ok(()));
            assert!(now < 100_000, "the engine never rests");
            now += 1;
        }
        let stats = handle.stats();
        assert_eq!((stats.policy_fallbacks.sampler, stats.forks_refused, stats.blocks.used), (0, 0, 0));
        answers.iter().map(|answer| answer.0.lock().unwrap().clone()).collect()
    }

    fn start(&self, policy: Option<(&str, &str, Make)>) -> Engine {
        let dir = fixture(self.model);
        // Exact arithmetic, so that a tie cannot fall either way.
        let load = Load {
            dir: &dir,
            devices: &[0],
            tensor_parallel: 1,
            block_tokens: 16,
            max_tokens: self.engine.max_batched_tokens,
            max_rows: self.engine.max_seqs,
            max_seqs: self.engine.max_seqs,
            depth: 2,
            kv_bytes: self.kv_bytes,
            options: "dtype=f32\nkv_dtype=f32\nthreads=1",
            progress: None,
        };
        let model = Backend::open(&library()).unwrap().load(&load).unwrap();
        let mut samplers = Samplers::default();
        if let Some((name, config, make)) = policy {
            let sampler = make(name, config, host(model.info().vocab, &dir));
            samplers.add(Named { name: name.to_owned(), sampler, enforcing: self.enforcing });
        }
        Engine::new(model, Box::new(Fcfs::default()), samplers, self.engine).unwrap()
    }
}

/// Cargo puts the library of a dev-dependency beside the test.
fn library() -> PathBuf {
    let file = format!("{}tokenmill_cpu{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    beside(&file)
}

/// A request for `max_tokens` without end tokens, sampled at temperature 1.
pub fn ask(prompt: &[u32], max_tokens: u32, args: &[(&str, &str)]) -> Request {
    Request {
        prompt: prompt.to_vec(),
        sampling: Params { seed: 7, ..Params::default() },
        n: 1,
        max_tokens,
        attributes: args.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        ..Request::default()
    }
}
