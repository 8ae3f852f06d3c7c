//! The host's own time per step, over the null backend, and of a prefix lookup; one JSON object on stdout.
//!
//! A step of steady decoding is timed whole. Then the backend alone is driven with the same batches, and
//! its time is subtracted: what is left is planning, the batch, the sampling rows and the delivery.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokenmill_backend::{Backend, Batch, Load, Model, Sampling, Waited, abi};
use tokenmill_engine::{Config, Engine, Event, Output, Params, Progress, Request, Samplers};
use tokenmill_kv::{Pool, Table};
use tokenmill_policy::Fcfs;

const BLOCK_TOKENS: u32 = 16;
const PROMPT: u32 = 128;
const REPEATS: usize = 7;

/// Adds up the tokens of all requests, so that they can be checked.
struct Sum(Arc<AtomicU64>);

impl Output for Sum {
    fn deliver(&mut self, event: Event<'_>) -> bool {
        if let Event::Token { token, .. } = event {
            self.0.fetch_add(u64::from(token), Ordering::Relaxed);
        }
        true
    }
}

fn main() {
    let steps: Vec<Value> = [1, 64, 256, 1024, 4096].into_iter().map(step_times).collect();
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
    Backend::open(&library()).unwrap().load(&load).unwrap()
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
    let (mut medians, mut tails, mut wholes, mut right) = (Vec::new(), Vec::new(), Vec::new(), true);
    for _ in 0..REPEATS {
        let (whole, sum_right) = engine_steps(seqs, steps);
        let backend = backend_steps(seqs, steps);
        right &= sum_right;
        wholes.push(percentile(&whole, 50));
        medians.push(percentile(&whole, 50) - percentile(&backend, 50));
        tails.push(percentile(&whole, 99) - percentile(&backend, 50));
    }
    let per_seq = |values: &[f64]| values.iter().map(|ns| ns / f64::from(seqs)).collect::<Vec<_>>();
    json!({
        "seqs": seqs,
        "steps": steps,
        "host_ns_per_step": spread(&medians),
        "host_ns_per_seq": spread(&per_seq(&medians)),
        "host_p99_ns_per_step": spread(&tails),
        "host_p99_ns_per_seq": spread(&per_seq(&tails)),
        "with_backend_ns_per_step": spread(&wholes),
        "tokens_right": right,
    })
}

/// Nanoseconds of each of some steps of steady decoding.
fn engine_steps(seqs: u32, steps: u32) -> (Vec<f64>, bool) {
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
    let sum = Arc::new(AtomicU64::new(0));
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
        handle.submit(request, Box::new(Sum(sum.clone()))).unwrap();
    }
    let mut now = 0;
    let mut step = |engine: &mut Engine| {
        now += 1;
        let start = Instant::now();
        assert_eq!(engine.step(now), Progress::Worked);
        start.elapsed().as_nanos() as f64
    };
    while handle.stats().running < u64::from(seqs) {
        step(&mut engine);
    }
    (0..warm).for_each(|_| drop(step(&mut engine)));
    let start = handle.stats().generated_tokens;
    let before = sum.load(Ordering::Relaxed);
    let times: Vec<f64> = (0..steps).map(|_| step(&mut engine)).collect();
    let generated = handle.stats().generated_tokens - start;
    let delivered = sum.load(Ordering::Relaxed) - before;
    let mean: u64 = (0..PERIOD).map(scripted).sum();
    // Over whole periods every sequence delivers the same sum; the rest is bounded by the largest token.
    let whole = u64::from(steps / PERIOD) * mean * u64::from(seqs);
    let rest = u64::from(steps % PERIOD * seqs) * u64::from((0..PERIOD).map(scripted).max().unwrap() as u32);
    let right =
        generated == u64::from(steps) * u64::from(seqs) && (whole..=whole + rest).contains(&delivered);
    (times, right)
}

/// The same batches, without an engine.
fn backend_steps(seqs: u32, steps: u32) -> Vec<f64> {
    let per_seq = (PROMPT + steps) / BLOCK_TOKENS + 2;
    let mut model = model(seqs, seqs * per_seq);
    let seq_start: Vec<u32> = (0..=seqs).collect();
    let rows: Vec<u32> = (0..seqs).collect();
    let sampling = vec![abi::Row::default(); seqs as usize];
    let mut tokens = vec![1; seqs as usize];
    let (mut sampled, mut logprobs) = (Vec::new(), Vec::new());
    let mut last = None;
    let mut times = Vec::new();
    for step in 0..steps {
        let used = (PROMPT + step) / BLOCK_TOKENS + 1;
        let block_start: Vec<u32> = (0..=seqs).map(|i| i * used).collect();
        let blocks: Vec<u32> = (0..seqs).flat_map(|i| (0..used).map(move |nth| i * per_seq + nth)).collect();
        let seq_pos = vec![PROMPT + step; seqs as usize];
        let batch = Batch {
            tokens: &tokens,
            seq_start: &seq_start,
            seq_pos: &seq_pos,
            block_start: &block_start,
            blocks: &blocks,
            rows: &rows,
            copies: &[],
        };
        let start = Instant::now();
        let ticket = model.submit(&batch).unwrap();
        if let Some(last) = last {
            let waited = model.wait(last, Duration::MAX, &mut sampled, &mut logprobs);
            assert_eq!(waited.unwrap(), Waited::Done);
        }
        model.sample(ticket, &Sampling { rows: &sampling, ..Sampling::default() }).unwrap();
        if let Some(last) = last {
            model.release(last);
        }
        times.push(start.elapsed().as_nanos() as f64);
        last = Some(ticket);
        tokens = (0..seqs as i32).map(|row| -1 - row).collect();
    }
    times
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
