//! A server over the null backend, for tests that look inside.

use crate::app::{App, Card, Defaults, Server};
use crate::caller::Caller;
use crate::limits::Limits;
use hyper::HeaderMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tokenmill_backend::{Backend, Load};
use tokenmill_engine::{Config, Engine};
use tokenmill_policy::{Fcfs, Samplers};

/// `options` are the null backend's.
pub(crate) fn server(options: &str, limit: impl FnOnce(&mut Limits)) -> Arc<Server> {
    let file = format!("{}tokenmill_null{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    // Cargo puts the library of a dev-dependency beside the test.
    let library = std::env::current_exe().unwrap().parent().unwrap().join(file);
    let load = Load {
        dir: Path::new("unused"),
        devices: &[0],
        tensor_parallel: 1,
        block_tokens: 16,
        max_tokens: 64,
        max_rows: 8,
        max_seqs: 8,
        depth: 2,
        kv_bytes: 0,
        options: &format!("vocab=64\ncontext=128\nblocks=64\n{options}"),
        progress: None,
    };
    let model = Backend::open(&library).unwrap().load(&load).unwrap();
    let engine =
        Engine::new(model, Box::new(Fcfs::default()), Samplers::default(), Config::default()).unwrap();
    let handle = engine.handle();
    let start = Instant::now();
    // Ends with the process.
    std::thread::spawn(move || engine.run(|| start.elapsed().as_micros() as u64));
    let mut limits = Limits::default();
    limit(&mut limits);
    let card = Card { name: "test".to_owned(), aliases: Vec::new(), end_tokens: Vec::new() };
    Arc::new(Server::new(App {
        engine: handle,
        engine_start: start,
        card,
        tokenizer: None,
        template: None,
        template_kwargs: Vec::new(),
        defaults: Defaults::default(),
        grammars: None,
        default_sampler: None,
        policies: None,
        api_keys: Vec::new(),
        seed: Some(7),
        limits,
    }))
}

pub(crate) fn caller() -> Caller {
    Caller::read(&HeaderMap::new(), None, Instant::now())
}
