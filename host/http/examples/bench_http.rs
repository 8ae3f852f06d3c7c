//! SSE frames per second and time to the first token over the null backend; one JSON object on standard output.
//!
//! The server is a child on core 0 with one runtime thread beside the engine's; the client is this process on
//! core 1. Frames are counted in the stream, tokens are taken from `usage`. `cargo xtask bench http` runs it.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // A benchmark may panic and prints its result.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream as Blocking;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokenmill_backend::{Backend, Load};
use tokenmill_engine::{Config, Engine, Event, Handle, Output, Params, Request};
use tokenmill_http::{App, Card, Defaults, Limits, serve};
use tokenmill_policy::{Fcfs, Samplers};
use tokenmill_text::Tokenizer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const STREAMS: usize = 256;
const TOKENS: u32 = 1024;
const REQUESTS: usize = 4;
const REPEATS: usize = 5;
const PROMPT: u32 = 1000;
const FIRST_TOKENS: usize = 300;

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("--server") => server(),
        Some("--direct") => println!("{}", direct()),
        _ => measure(),
    }
}

/// The engine over the null backend, on a thread of its own.
fn engine() -> (Handle, Instant) {
    let file = format!("{}tokenmill_null{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let here = std::env::current_exe().unwrap();
    let release = here.parent().unwrap().parent().unwrap();
    let found = [release.join("deps"), release.to_path_buf()].map(|folder| folder.join(&file));
    let backend = Backend::open(found.iter().find(|path| path.exists()).unwrap()).unwrap();
    let load = Load {
        dir: Path::new("unused"),
        devices: &[0],
        tensor_parallel: 1,
        block_tokens: 16,
        max_tokens: 4096,
        max_rows: 512,
        max_seqs: 512,
        depth: 2,
        kv_bytes: 0,
        options: "vocab=320\ncontext=8192\nblocks=65536\ncheck=0\nscript=275,279,306",
        progress: None,
    };
    let config = Config { max_seqs: 512, max_batched_tokens: 4096, max_model_len: 8192, ..Config::default() };
    let model = backend.load(&load).unwrap();
    let engine = Engine::new(model, Box::new(Fcfs::default()), Samplers::default(), config).unwrap();
    let handle = engine.handle();
    let started = Instant::now();
    std::thread::spawn(move || engine.run(|| started.elapsed().as_micros() as u64));
    (handle, started)
}

fn server() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/llama-gqa");
    let (engine, engine_start) = engine();
    let app = App {
        engine,
        engine_start,
        card: Card { name: "null".to_owned(), aliases: Vec::new(), end_tokens: vec![2] },
        tokenizer: Some(Arc::new(Tokenizer::from_dir(&dir).unwrap())),
        template: None,
        template_kwargs: Vec::new(),
        defaults: Defaults::default(),
        grammars: None,
        default_sampler: None,
        policies: None,
        api_keys: Vec::new(),
        seed: Some(1),
        limits: Limits { connections_per_ip: 4096, ..Limits::default() },
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        serve(listener, app, std::future::pending()).await.unwrap();
    });
}

/// A prompt that no other `i` shares a block with.
fn prompt(i: usize) -> Vec<u32> {
    let first = (i * 31) as u32;
    (0..PROMPT).map(|at| 20 + (first + at * 7 + (i as u32 / 200) * at) % 280).collect()
}

/// Median microseconds from `submit` to the first token's delivery, without HTTP.
fn direct() -> f64 {
    struct First(mpsc::Sender<Instant>);
    impl Output for First {
        fn deliver(&mut self, event: Event<'_>) -> bool {
            if let Event::Token { .. } = event {
                _ = self.0.send(Instant::now());
            }
            true
        }
    }
    let (engine, _) = engine();
    let mut times = Vec::new();
    for i in 0..FIRST_TOKENS {
        let (sender, first) = mpsc::channel();
        let sampling = Params { temperature: 0.0, ..Params::default() };
        let request = Request { prompt: prompt(i), sampling, n: 1, max_tokens: 1, ..Request::default() };
        let start = Instant::now();
        engine.submit(request, Box::new(First(sender))).unwrap();
        times.push((first.recv().unwrap() - start).as_secs_f64() * 1e6);
        std::thread::sleep(Duration::from_millis(1));
    }
    percentile(&mut times, 0.5)
}

fn child(mode: &str) -> Child {
    let here = std::env::current_exe().unwrap();
    Command::new("taskset").args(["-c", "0"]).arg(here).arg(mode).stdout(Stdio::piped()).spawn().unwrap()
}

fn measure() {
    let own = std::process::id().to_string();
    Command::new("taskset").args(["-cp", "1", &own]).stdout(Stdio::null()).status().unwrap();
    let mut frames = Vec::new();
    let (mut p50, mut p99, mut without) = (Vec::new(), Vec::new(), Vec::new());
    let mut counted = json!(null);
    for _ in 0..REPEATS {
        let mut server = child("--server");
        let mut line = String::new();
        BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().to_owned();
        // Once to warm up, once to measure.
        streams(&address, 1);
        let (count, tokens, seconds) = streams(&address, REQUESTS);
        frames.push(count as f64 / seconds);
        counted = json!({"frames": count, "tokens": tokens});
        let mut times = first_tokens(&address);
        p50.push(percentile(&mut times, 0.5));
        p99.push(percentile(&mut times, 0.99));
        server.kill().unwrap();
        server.wait().unwrap();
        let mut text = String::new();
        child("--direct").stdout.unwrap().read_to_string(&mut text).unwrap();
        without.push(text.trim().parse::<f64>().unwrap());
    }
    let mut overhead: Vec<f64> = p50.iter().zip(&without).map(|(with, without)| with - without).collect();
    let result = json!({
        "streams": STREAMS, "tokens_per_request": TOKENS, "repeats": REPEATS,
        "server_cores": 1, "client_cores": 1, "last_run": counted,
        "frames_per_s": spread(&mut frames), "goal_frames_per_s": 300_000,
        "ttft_http_p50_us": spread(&mut p50), "ttft_http_p99_us": spread(&mut p99),
        "ttft_engine_p50_us": spread(&mut without),
        "ttft_overhead_p50_us": spread(&mut overhead), "goal_ttft_overhead_us": 150,
        "prompt_tokens": PROMPT,
    });
    println!("{result}");
}

fn request(prompt: &[u32], tokens: u32) -> Vec<u8> {
    let body = json!({
        "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": true, "stream": true,
        "stream_options": {"include_usage": true},
    })
    .to_string();
    format!("POST /v1/completions HTTP/1.1\r\nhost: bench\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
}

/// Frames, tokens and seconds of STREAMS connections with `requests` requests each.
fn streams(address: &str, requests: usize) -> (u64, u64, f64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let start = Instant::now();
        let tasks: Vec<_> = (0..STREAMS)
            .map(|i| {
                tokio::spawn(stream(
                    address.to_owned(),
                    request(&[20 + (i % 280) as u32; 8], TOKENS),
                    requests,
                ))
            })
            .collect();
        let (mut frames, mut tokens) = (0, 0);
        for task in tasks {
            let (f, t) = task.await.unwrap();
            frames += f;
            tokens += t;
        }
        (frames, tokens, start.elapsed().as_secs_f64())
    })
}

async fn stream(address: String, request: Vec<u8>, requests: usize) -> (u64, u64) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let (mut frames, mut tokens) = (0, 0);
    let mut buffer = vec![0; 64 << 10];
    for _ in 0..requests {
        socket.write_all(&request).await.unwrap();
        let mut tail: Vec<u8> = Vec::new();
        loop {
            let size = socket.read(&mut buffer).await.unwrap();
            assert!(size > 0, "the server hung up");
            frames += frames_in(&buffer[..size]);
            tail.extend_from_slice(&buffer[..size]);
            if tail.ends_with(b"0\r\n\r\n") {
                break;
            }
            let keep = tail.len().saturating_sub(1024);
            tail.drain(..keep);
        }
        tokens += usage(&tail);
    }
    // [DONE] is no frame of a token, nor is the finish, nor the usage.
    (frames - 3 * requests as u64, tokens)
}

/// Each frame has one opening `{"id"`; a cut between two reads loses at most a few in a million.
fn frames_in(bytes: &[u8]) -> u64 {
    bytes.windows(2).filter(|pair| pair == b"\n\n").count() as u64
}

fn usage(tail: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(tail);
    let at = text.rfind("\"completion_tokens\":").unwrap() + 20;
    text[at..].bytes().take_while(u8::is_ascii_digit).fold(0, |n, digit| n * 10 + u64::from(digit - b'0'))
}

/// Microseconds from sending a request of PROMPT ids to its first frame.
fn first_tokens(address: &str) -> Vec<f64> {
    let mut socket = Blocking::connect(address).unwrap();
    socket.set_nodelay(true).unwrap();
    let mut buffer = vec![0; 64 << 10];
    let mut times = Vec::new();
    for i in 0..FIRST_TOKENS {
        let request = request(&prompt(i), 1);
        let start = Instant::now();
        socket.write_all(&request).unwrap();
        let mut first = None;
        let mut all = Vec::new();
        while !all.ends_with(b"0\r\n\r\n") {
            let size = socket.read(&mut buffer).unwrap();
            assert!(size > 0, "the server hung up");
            all.extend_from_slice(&buffer[..size]);
            if first.is_none() && all.windows(6).any(|part| part == b"data: ") {
                first = Some(start.elapsed());
            }
        }
        times.push(first.unwrap().as_secs_f64() * 1e6);
        std::thread::sleep(Duration::from_millis(1));
    }
    times
}

fn percentile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * part) as usize]
}

fn spread(values: &mut [f64]) -> Value {
    let at = |values: &mut [f64], part| (percentile(values, part) * 10.0).round() / 10.0;
    json!({"median": at(values, 0.5), "min": at(values, 0.0), "max": at(values, 1.0)})
}
