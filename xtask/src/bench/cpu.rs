//! SmolLM2-135M in bf16 on all cores: ours and llama.cpp interleaved, quiet and beside a busy process.

use super::{
    Cpu,
    llama::Llama,
    report,
    stats::{Samples, round},
};
use crate::process::{self, built, cargo, command, output};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::process::{Child, Stdio};

const PROMPT: u32 = 512;
const GENERATE: u32 = 128;
/// Prompt of each sequence in batched decoding, and tokens decoded there.
const BATCH_PROMPT: u32 = 32;
const BATCH_GENERATE: u32 = 64;

/// A measured quantity, in tokens per second.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    sequences: u32,
    prompt: u32,
    generate: u32,
    /// What ours must reach, as a multiple of the peer.
    goal: f64,
}

const CASES: [Case; 4] = [
    Case { name: "decode_batch_1", sequences: 1, prompt: 0, generate: GENERATE, goal: 1.15 },
    Case { name: "decode_batch_8", sequences: 8, prompt: BATCH_PROMPT, generate: BATCH_GENERATE, goal: 1.5 },
    Case {
        name: "decode_batch_32",
        sequences: 32,
        prompt: BATCH_PROMPT,
        generate: BATCH_GENERATE,
        goal: 1.5,
    },
    Case { name: "prefill_512", sequences: 1, prompt: PROMPT, generate: 0, goal: 1.5 },
];

pub(crate) fn run(options: &Cpu) -> Result<()> {
    build()?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let llama = Llama::prepare(options.llama.as_deref())?;
    let quiet = measure(&llama, threads, options.repeats, &CASES)?;
    let competitor = Competitor::start()?;
    // A peer that waits by spinning can be twenty times slower here, so fewer tokens are decoded.
    let shorter = CASES.map(|case| Case { generate: case.generate / 4, ..case });
    let busy = measure(&llama, threads, options.repeats, &shorter)?;
    drop(competitor);
    report::write(
        "cpu",
        json!({
            "model": "SmolLM2-135M-Instruct (weights dequantised from Q4_1), bf16 on both sides",
            "kv_cache": { "ours": "bf16", "peer": "f16 (its default)" },
            "peer": "llama.cpp, built here from its source package with native instructions",
            "threads": threads,
            "unit": "tokens/s",
            "quiet": table(&quiet),
            "beside_one_busy_process": table(&busy),
            "ours_busy_slowdown": slowdown(&quiet.ours, &busy.ours),
            "peer_busy_slowdown": slowdown(&quiet.peer, &busy.peer),
        }),
    )
}

fn build() -> Result<()> {
    process::run(cargo().args(["build", "--release", "--quiet", "--package", "tokenmill-cli"]))?;
    output(command(built()?.join("tokenmill")).args(["pull", "SmolLM2-135M-Instruct"])).map(drop)
}

#[derive(Default)]
struct Round {
    ours: [Samples; CASES.len()],
    peer: [Samples; CASES.len()],
    probe_gb_s: Samples,
    /// Bytes of weights that one decode step reads.
    weight_bytes: f64,
}

/// Interleaves: ours, peer, ours, peer, …, so that a slow minute hits both.
fn measure(llama: &Llama, threads: usize, repeats: u32, cases: &[Case; CASES.len()]) -> Result<Round> {
    let mut round = Round::default();
    for _ in 0..repeats {
        for (i, case) in cases.iter().enumerate() {
            let ours = ours(case, threads)?;
            round.ours[i].push(ours["tokens_per_s"].as_f64().context("tokens_per_s")?);
            round.probe_gb_s.push(ours["read_probe_gb_s"].as_f64().context("read_probe_gb_s")?);
            round.weight_bytes = ours["weight_bytes"].as_f64().context("weight_bytes")?;
            round.peer[i].push(match case.sequences {
                1 => llama.single(threads, case.prompt, case.generate)?,
                n => llama.batched(threads, n, case.prompt, case.generate)?,
            });
        }
    }
    Ok(round)
}

/// One measurement through the backend ABI: `tokenmill bench --json`.
fn ours(case: &Case, threads: usize) -> Result<Value> {
    let text = output(command(built()?.join("tokenmill")).args([
        "bench",
        "--json",
        "--probe",
        "--dtype",
        "bf16",
        "--repeats",
        "1",
        "--backend-option",
        &format!("threads={threads}"),
        "--sequences",
        &case.sequences.to_string(),
        "--prompt",
        &case.prompt.to_string(),
        "--generate",
        &case.generate.to_string(),
    ]))?;
    serde_json::from_str(&text).context("tokenmill bench printed no JSON")
}

fn table(round: &Round) -> Value {
    let mut rows = serde_json::Map::new();
    for (i, case) in CASES.iter().enumerate() {
        let (ours, peer) = (round.ours[i].median(), round.peer[i].median());
        let mut row = json!({
            "ours": round.ours[i].json(),
            "llama.cpp": round.peer[i].json(),
            "ratio": round_ratio(ours, peer),
            "goal": case.goal,
        });
        if case.sequences == 1 && case.prompt == 0 {
            row["share_of_read_probe"] =
                json!(round_ratio(ours * round.weight_bytes, round.probe_gb_s.median() * 1e9));
            row["peer_share_of_read_probe"] =
                json!(round_ratio(peer * round.weight_bytes, round.probe_gb_s.median() * 1e9));
        }
        rows.insert(case.name.to_owned(), row);
    }
    rows.insert("read_probe_gb_s".to_owned(), round.probe_gb_s.json());
    rows.insert("weight_bytes_per_decode_step".to_owned(), json!(round.weight_bytes));
    Value::Object(rows)
}

fn slowdown(quiet: &[Samples], busy: &[Samples]) -> Value {
    let pairs = CASES.iter().zip(quiet.iter().zip(busy));
    Value::Object(
        pairs
            .map(|(case, (q, b))| (case.name.to_owned(), json!(round_ratio(q.median(), b.median()))))
            .collect(),
    )
}

fn round_ratio(a: f64, b: f64) -> f64 {
    round(a / b)
}

/// A process that never rests; killed when dropped.
struct Competitor(Child);

impl Competitor {
    fn start() -> Result<Self> {
        let program = std::env::current_exe()?;
        Ok(Self(
            command(program)
                .args(["bench", "spin"])
                .stdout(Stdio::null())
                .spawn()
                .context("the competing process")?,
        ))
    }
}

impl Drop for Competitor {
    fn drop(&mut self) {
        // Nothing can be done about a child that cannot be killed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
