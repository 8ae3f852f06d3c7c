//! An engine over the null backend, and receivers that write down what they are told.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]

use std::path::Path;
use std::sync::{Arc, Mutex};

use tokenmill_backend::{Backend, Load, Model};
use tokenmill_engine::{
    Config, Engine, Event, Failure, FinishReason, Handle, Output, Params, Progress, Request, RequestId,
    Samplers, TokenLogprob, Usage,
};
use tokenmill_policy::{Fcfs, Scheduler};

/// What the null backend is loaded with.
#[derive(Clone, Copy)]
pub struct Setup<'a> {
    pub blocks: u32,
    pub block_tokens: u32,
    pub max_tokens: u32,
    pub max_rows: u32,
    pub max_seqs: u32,
    /// Further lines of its options.
    pub options: &'a str,
    pub config: Config,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self {
            blocks: 256,
            block_tokens: 4,
            max_tokens: 64,
            max_rows: 64,
            max_seqs: 32,
            options: "vocab=1000",
            config: Config { max_seqs: 32, max_batched_tokens: 64, ..Config::default() },
        }
    }
}

/// The library that cargo built for the dev-dependency, beside the test or above an example.
pub fn library() -> std::path::PathBuf {
    let file = format!("{}tokenmill_null{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let exe = std::env::current_exe().unwrap();
    let near = [exe.with_file_name(&file), exe.parent().unwrap().join("../deps").join(&file)];
    near.into_iter().find(|path| path.exists()).expect("the null backend is built")
}

impl Setup<'_> {
    pub fn model(&self) -> Model {
        let options = format!("blocks={}\n{}", self.blocks, self.options);
        let backend = Backend::open(&library()).unwrap();
        let load = Load {
            dir: Path::new("."),
            devices: &[0],
            tensor_parallel: 1,
            block_tokens: self.block_tokens,
            max_tokens: self.max_tokens,
            max_rows: self.max_rows,
            max_seqs: self.max_seqs,
            depth: 2,
            kv_bytes: 0,
            options: &options,
            progress: None,
        };
        backend.load(&load).unwrap()
    }

    pub fn engine(&self) -> Engine {
        self.engine_with(Box::new(Fcfs::default()), Samplers::default())
    }

    pub fn engine_with(&self, scheduler: Box<dyn Scheduler>, samplers: Samplers) -> Engine {
        Engine::new(self.model(), scheduler, samplers, self.config).unwrap()
    }
}

/// One event, owned.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    Prompt { cached_tokens: u32, logprobs: Vec<TokenLogprob> },
    Token { branch: u32, token: u32, logprob: f32, top: Vec<(u32, f32)> },
    Forked { branch: u32, parent: u32 },
    Finished { branch: u32, reason: FinishReason },
    Done(Usage),
    Failed(Failure),
}

/// The events of one request.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<Told>>>);

struct Recorder {
    log: Log,
    /// Gone after so many events.
    patience: usize,
}

impl Output for Recorder {
    fn deliver(&mut self, event: Event<'_>) -> bool {
        let told = match event {
            Event::Prompt { cached_tokens, logprobs } => {
                Told::Prompt { cached_tokens, logprobs: logprobs.to_vec() }
            }
            Event::Token { branch, token, logprob, top } => {
                Told::Token { branch, token, logprob, top: top.to_vec() }
            }
            Event::Forked { branch, parent } => Told::Forked { branch, parent },
            Event::Finished { branch, reason } => Told::Finished { branch, reason },
            Event::Done(usage) => Told::Done(usage),
            Event::Failed(failure) => Told::Failed(failure.clone()),
        };
        let mut log = self.log.0.lock().unwrap();
        assert!(
            !log.iter().any(|told| matches!(told, Told::Done(_) | Told::Failed(_))),
            "an event after the last"
        );
        assert!(log.len() < self.patience, "an event after the receiver was gone");
        log.push(told);
        log.len() < self.patience
    }
}

impl Log {
    pub fn output(&self) -> Box<dyn Output> {
        self.output_for(usize::MAX)
    }

    /// A receiver that is gone after some events.
    pub fn output_for(&self, patience: usize) -> Box<dyn Output> {
        Box::new(Recorder { log: self.clone(), patience })
    }

    pub fn events(&self) -> Vec<Told> {
        self.0.lock().unwrap().clone()
    }

    pub fn tokens(&self, of: u32) -> Vec<u32> {
        let token = |told| match told {
            Told::Token { branch, token, .. } if branch == of => Some(token),
            _ => None,
        };
        self.events().into_iter().filter_map(token).collect()
    }

    pub fn reason(&self, of: u32) -> Option<FinishReason> {
        self.events().into_iter().find_map(|told| match told {
            Told::Finished { branch, reason } if branch == of => Some(reason),
            _ => None,
        })
    }

    pub fn usage(&self) -> Usage {
        match self.events().last() {
            Some(Told::Done(usage)) => *usage,
            other => panic!("the last event is {other:?}"),
        }
    }

    pub fn failure(&self) -> Option<Failure> {
        match self.events().last() {
            Some(Told::Failed(failure)) => Some(failure.clone()),
            _ => None,
        }
    }

    pub fn ended(&self) -> bool {
        matches!(self.events().last(), Some(Told::Done(_) | Told::Failed(_)))
    }
}

/// A greedy request for some tokens, without end tokens.
pub fn greedy(prompt: impl IntoIterator<Item = u32>, max_tokens: u32) -> Request {
    Request {
        prompt: prompt.into_iter().collect(),
        sampling: Params { temperature: 0.0, ..Params::default() },
        n: 1,
        max_tokens,
        ..Request::default()
    }
}

pub fn submit(handle: &Handle, request: Request) -> (RequestId, Log) {
    let log = Log::default();
    let id = handle.submit(request, log.output()).unwrap();
    (id, log)
}

/// Steps until nothing is left to do, with a check after each.
pub fn drive(engine: &mut Engine) -> Progress {
    for now in 0..200_000 {
        let progress = step(engine, now);
        if progress != Progress::Worked {
            return progress;
        }
    }
    panic!("the engine never rests");
}

pub fn step(engine: &mut Engine, now: u64) -> Progress {
    let progress = engine.step(|| now);
    assert_eq!(engine.check(), Ok(()), "after step {now}");
    progress
}

/// All blocks are back.
pub fn assert_empty(engine: &Engine) {
    let stats = engine.handle().stats();
    assert_eq!((stats.blocks.used, stats.running, stats.waiting, stats.waiting_tokens), (0, 0, 0, 0));
    assert_eq!(stats.blocks.free + stats.blocks.cached, stats.blocks.total);
}
