//! The host's own time per step, over the null backend, and of a prefix lookup; one JSON object on stdout.
//!
//! Steps of steady decoding are timed whole, and every call into the backend apart (`timed.rs`). What is
//! left when those are subtracted is planning, the batch, the sampling rows and the delivery.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod timed;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde_json::{Value, json};
use tokenmill_backend::{Backend, Load, Model};
use tokenmill_engine::{Config, Engine, Event, Output, Params, Progress, Request, Samplers};
use tokenmill_kv::{Pool, Table};
use tokenmill_policy::Fcfs;

const BLOCK_TOKENS: u32 = 16;
const PROMPT: u32 = 128;
const REPEATS: usize = 7;

/// Adds up the tokens of all requests, so that they can be checked.
struct Sum;

static SUM: AtomicU64 = AtomicU64::new(0);

impl Output for Sum {
    fn deliver(&mut self, event: Event<'_>) -> bool {
        if let Event::Token { token, .. } = event {
            // One thread writes: no need for an atomic addition.
            SUM.store(SUM.load(Ordering::Relaxed) + u64::from(token), Ordering::Relaxed);
        }
        true
    }
}

fn main() {
    // Without arguments all sizes.
    let asked: Vec<u32> = std::env::args().skip(1).map(|arg| arg.parse().unwrap()).collect();
    let sizes = if asked.is_empty() { vec![1, 64, 256, 1024, 4096] } else { asked };
    let steps: Vec<Value> = sizes.into_iter().map(step_times).collect();
    let report = json!({
        "bench": "engine",
        "block_tokens": BLOCK_TOKENS,
        "context": PROMPT,
        "repeats": REPEATS,
        "steps": steps,
        "prefix_lookup": prefix_times(),
    });
    println!("{report:#}");
}

/// Beside this example or in `deps` below it, where cargo puts the dev-dependency.
fn library() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let file = format!("{}tokenmill_null{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let folders = exe.ancestors().skip(1).take(2);
    let near = folders.flat_map(|folder| [folder.join(&file), folder.join("deps").join(&file)]);
    near.into_iter().find(|path| path.exists()).unwrap()
}

fn model(seqs: u32, blocks: u32) -> Model {
    let load = Load {
        dir: Path::new("."),
        devices: &[0],
        tensor_parallel: 1,
        block_tokens: BLOCK_TOKENS,
        max_tokens: seqs.max(8192),
        max_rows: seqs,
        max_seqs: seqs,
        depth: 2,
        kv_bytes: 0,
        // Token p + 1 of every sequence is entry p + 1: sums are known.
        options: &format!("blocks={blocks}\ncheck=0\nvocab=32000\nscript={}", script()),
        progress: None,
    };
    Backend::from_entry(timed::entry(&library())).unwrap().load(&load).unwrap()
}

const PERIOD: u32 = 97;

fn script() -> String {
    (0..PERIOD).map(|at| (at * 331 % 32000).to_string()).collect::<Vec<_>>().join(",")
}

fn scripted(position: u32) -> u64 {
    u64::from(position % PERIOD * 331 % 32000)
}

fn step_times(seqs: u32) -> Value {
    let steps = (400_000 / seqs).clamp(200, 4000);
    let (mut medians, mut tails, mut backend, mut right) = (Vec::new(), Vec::new(), Vec::new(), true);
    for _ in 0..REPEATS {
        let (times, sum_right) = engine_steps(seqs, steps);
        right &= sum_right;
        let host: Vec<f64> = times.iter().map(|(host, _)| *host).collect();
        medians.push(percentile(&host, 50));
        tails.push(percentile(&host, 99));
        backend.push(percentile(&times.iter().map(|(_, backend)| *backend).collect::<Vec<_>>(), 50));
    }
    let per_seq = |values: &[f64]| values.iter().map(|ns| ns / f64::from(seqs)).collect::<Vec<_>>();
    json!({
        "seqs": seqs,
        "steps": steps,
        "host_ns_per_step": spread(&medians),
        "host_ns_per_seq": spread(&per_seq(&medians)),
        "host_p99_ns_per_step": spread(&tails),
        "host_p99_ns_per_seq": spread(&per_seq(&tails)),
        "backend_ns_per_step": spread(&backend),
        "tokens_right": right,
    })
}

/// Nanoseconds of each of some steps of steady decoding: of the host, and of the backend.
fn engine_steps(seqs: u32, steps: u32) -> (Vec<(f64, f64)>, bool) {
    let warm = 50;
    let blocks = seqs * ((PROMPT + steps + warm) / BLOCK_TOKENS + 8) + 64;
    let config = Config {
        max_seqs: seqs,
        max_batched_tokens: seqs.max(8192),
        max_waiting: seqs,
        max_waiting_tokens: u64::MAX,
        ..Config::default()
    };
    let model = model(seqs, blocks);
    let mut engine = Engine::new(model, Box::new(Fcfs::default()), Samplers::default(), config).unwrap();
    let handle = engine.handle();
    for i in 0..seqs {
        let request = Request {
            // Blocks fill at different steps.
            prompt: (0..PROMPT - i % BLOCK_TOKENS).map(|at| (at * 7 + i) % 32000).collect(),
            sampling: Params { temperature: 0.0, ..Params::default() },
            n: 1,
            max_tokens: steps + 10 * warm,
            stop_tokens: vec![31_999],
            ..Request::default()
        };
        handle.submit(request, Box::new(Sum)).unwrap();
    }
    let mut now = 0;
    let mut step = |engine: &mut Engine| {
        now += 1;
        timed::take();
        let start = Instant::now();
        let progress = engine.step(|| now);
        let whole = start.elapsed().as_nanos() as f64;
        assert_eq!(progress, Progress::Worked);
        let backend = timed::take() as f64;
        (whole - backend, backend)
    };
    while handle.stats().running < u64::from(seqs) {
        step(&mut engine);
    }
    for _ in 0..warm {
        step(&mut engine);
    }
    let start = handle.stats().generated_tokens;
    let before = SUM.load(Ordering::Relaxed);
    let times: Vec<(f64, f64)> = (0..steps).map(|_| step(&mut engine)).collect();
    let generated = handle.stats().generated_tokens - start;
    let delivered = SUM.load(Ordering::Relaxed) - before;
    let mean: u64 = (0..PERIOD).map(scripted).sum();
    // Over whole periods every sequence delivers the same sum; the rest is bounded by the largest token.
    let whole = u64::from(steps / PERIOD) * mean * u64::from(seqs);
    let rest = u64::from(steps % PERIOD * seqs) * u64::from((0..PERIOD).map(scripted).max().unwrap() as u32);
    let right =
        generated == u64::from(steps) * u64::from(seqs) && (whole..=whole + rest).contains(&delivered);
    (times, right)
}

/// A prompt of 8192 tokens whose blocks are all known.
fn prefix_times() -> Value {
    const TOKENS: u32 = 8192;
    let known = 512;
    let mut pool = Pool::new(known * TOKENS / BLOCK_TOKENS, BLOCK_TOKENS);
    let prompts: Vec<Vec<u32>> = (0..known)
        .map(|i| (0..TOKENS).map(|at| at.wrapping_mul(2_654_435_761).wrapping_add(i) >> 8).collect())
        .collect();
    let mut table = Table::default();
    table.reserve((TOKENS / BLOCK_TOKENS) as usize);
    for prompt in &prompts {
        pool.extend(&mut table, 0, TOKENS, &mut Vec::new()).unwrap();
        pool.commit(&mut table, prompt);
        pool.free(&mut table);
    }
    let mut hits = 0;
    let mut lookup = |prompt: &[u32]| {
        let start = Instant::now();
        hits += pool.adopt(&mut table, 0, prompt);
        let ns = start.elapsed().as_nanos() as f64;
        pool.free(&mut table);
        ns / f64::from(TOKENS)
    };
    let cold: Vec<f64> = prompts.iter().map(|prompt| lookup(prompt)).collect();
    let warm: Vec<f64> = (0..2000).map(|_| lookup(&prompts[7])).collect();
    let absent: Vec<u32> = (0..TOKENS).collect();
    let miss: Vec<f64> = (0..100).map(|_| lookup(&absent)).collect();
    let all = hits == (known + 2000) * TOKENS;
    let chunks =
        |all: &[f64]| spread(&all.chunks(all.len() / 5).map(|part| percentile(part, 50)).collect::<Vec<_>>());
    json!({
        "tokens": TOKENS,
        "warm_ns_per_token": chunks(&warm),
        "cold_ns_per_token": chunks(&cold),
        "miss_ns_per_token": chunks(&miss),
        "hits_right": all,
    })
}

fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) * percent / 100]
}

fn spread(values: &[f64]) -> Value {
    let round = |ns: f64| (ns * 100.0).round() / 100.0;
    json!({
        "median": round(percentile(values, 50)),
        "min": round(percentile(values, 0)),
        "max": round(percentile(values, 100)),
    })
}
