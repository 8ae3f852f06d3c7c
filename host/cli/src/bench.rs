//! `tokenmill bench`: prefill and decode speed straight through the backend ABI, as `llama-bench` measures them.

use crate::{
    args::{self, EngineArgs, ModelArgs},
    models, wiring,
};
use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};
use std::{fs, path::Path, time::Duration, time::Instant};
use tokenmill_backend::{Batch, Model, Sampling, Ticket, abi};

/// How long one step may take before the benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(600);

#[derive(Args)]
pub(crate) struct Bench {
    /// A model's name or folder.
    model: Option<String>,
    #[command(flatten)]
    how: ModelArgs,
    /// Sequences decoded at once.
    #[arg(long, default_value_t = 1)]
    sequences: u32,
    /// Prompt tokens of each sequence; timed when nothing is generated.
    #[arg(long, default_value_t = 512)]
    prompt: u32,
    /// Tokens generated after the prompt by each sequence; 0 times the prompt.
    #[arg(long, default_value_t = 0)]
    generate: u32,
    /// Measurements; the median counts.
    #[arg(long, default_value_t = 5)]
    repeats: u32,
    /// Also measure how fast this machine's memory can be read.
    #[arg(long)]
    probe: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Bench {
    pub(crate) fn run(self) -> Result<()> {
        if self.prompt + self.generate == 0 || self.sequences == 0 || self.repeats == 0 {
            bail!("nothing to measure: --sequences, --repeats and --prompt or --generate must be at least 1");
        }
        let dir = models::resolve(
            &args::model_or_default(self.model.as_ref()),
            self.how.dtype.unwrap_or_default(),
        )?;
        let per_sequence = (self.prompt.max(1) + self.generate).div_ceil(self.how.block_size);
        let engine = EngineArgs {
            max_num_seqs: self.sequences,
            max_num_batched_tokens: self.sequences.max(self.prompt.min(512)),
            num_speculative_tokens: 0,
            no_enable_prefix_caching: true,
            seed: 0,
        };
        let mut model = wiring::load(&dir.path, &self.how, &engine)?;
        if model.info().n_blocks < per_sequence * self.sequences {
            bail!(
                "the KV cache has {} blocks, {} are needed: give --kv-cache-memory-bytes",
                model.info().n_blocks,
                per_sequence * self.sequences
            );
        }
        let mut work = Work::new(&model, self.sequences, per_sequence);
        let mut speeds = Vec::new();
        // The first round warms caches and pages and does not count.
        for round in 0..=self.repeats {
            let speed = self.measure(&mut model, &mut work)?;
            speeds.extend((round > 0).then_some(speed));
        }
        self.print(&speeds, &model, weight_bytes(&dir.path)?)
    }

    /// Tokens per second of one round.
    fn measure(&self, model: &mut Model, work: &mut Work) -> Result<f64> {
        let start = Instant::now();
        let sampled = work.prefill(model, self.prompt.max(1))?;
        if self.generate == 0 {
            work.finish(model, sampled)?;
            return Ok(f64::from(self.prompt * self.sequences) / start.elapsed().as_secs_f64());
        }
        model.wait(sampled, PATIENCE, &mut work.tokens, &mut work.logprobs)?;
        let start = Instant::now();
        let last = work.decode(model, sampled, self.prompt.max(1), self.generate)?;
        work.finish(model, last)?;
        Ok(f64::from(self.generate * self.sequences) / start.elapsed().as_secs_f64())
    }

    fn print(&self, speeds: &[f64], model: &Model, weight_bytes: u64) -> Result<()> {
        let mut sorted = speeds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let median = sorted[sorted.len() / 2];
        let probe = self.probe.then(tokenmill_cpu::probe::read_bandwidth_gb_s);
        if self.json {
            let report: Value = json!({
                "device": model.info().device, "weights": model.info().weights, "weight_bytes": weight_bytes,
                "sequences": self.sequences, "prompt": self.prompt, "generate": self.generate,
                "tokens_per_s": median, "all": speeds, "read_probe_gb_s": probe,
            });
            println!("{report}");
            return Ok(());
        }
        let what = if self.generate == 0 { "prefill" } else { "decode" };
        println!(
            "{what}: {median:.1} tokens/s (median of {}, {:.1} to {:.1})",
            speeds.len(),
            sorted[0],
            sorted[sorted.len() - 1]
        );
        if let Some(probe) = probe {
            println!("memory reads: {probe:.1} GB/s");
        }
        Ok(())
    }
}

/// The arrays of a batch, reused from step to step.
struct Work {
    sequences: u32,
    vocab: u32,
    blocks: Vec<u32>,
    block_start: Vec<u32>,
    sampling: Vec<abi::Row>,
    max_tokens: u32,
    tokens: Vec<i32>,
    logprobs: Vec<f32>,
}

impl Work {
    fn new(model: &Model, sequences: u32, per_sequence: u32) -> Self {
        Self {
            sequences,
            vocab: model.info().vocab,
            blocks: (0..sequences * per_sequence).collect(),
            block_start: (0..=sequences).map(|i| i * per_sequence).collect(),
            sampling: vec![abi::Row::default(); sequences as usize],
            max_tokens: model.info().max_tokens,
            tokens: Vec::new(),
            logprobs: Vec::new(),
        }
    }

    /// Computes every sequence's prompt, all sequences in step, and samples after its last token.
    fn prefill(&mut self, model: &mut Model, prompt: u32) -> Result<Ticket> {
        let chunk = (self.max_tokens / self.sequences).max(1);
        let mut done = 0;
        loop {
            let count = chunk.min(prompt - done);
            let last = done + count == prompt;
            let tokens: Vec<i32> =
                (0..self.sequences * count).map(|i| ((i * 7919 + done * 31) % self.vocab) as i32).collect();
            let rows: Vec<u32> =
                if last { (1..=self.sequences).map(|i| i * count - 1).collect() } else { Vec::new() };
            let ticket = self.submit(model, &tokens, count, done, &rows)?;
            if last {
                return Ok(ticket);
            }
            self.finish(model, ticket)?;
            done += count;
        }
    }

    /// One token per sequence and step, each fed from the row before, two steps in flight.
    fn decode(&mut self, model: &mut Model, mut previous: Ticket, from: u32, steps: u32) -> Result<Ticket> {
        let tokens: Vec<i32> = (0..self.sequences as i32).map(|row| -1 - row).collect();
        let rows: Vec<u32> = (0..self.sequences).collect();
        for position in from..from + steps {
            let ticket = self.submit(model, &tokens, 1, position, &rows)?;
            self.finish(model, previous)?;
            previous = ticket;
        }
        Ok(previous)
    }

    fn submit(
        &mut self,
        model: &mut Model,
        tokens: &[i32],
        count: u32,
        position: u32,
        rows: &[u32],
    ) -> Result<Ticket> {
        let seq_start: Vec<u32> = (0..=self.sequences).map(|i| i * count).collect();
        let seq_pos = vec![position; self.sequences as usize];
        let batch = Batch {
            tokens,
            seq_start: &seq_start,
            seq_pos: &seq_pos,
            block_start: &self.block_start,
            blocks: &self.blocks,
            rows,
            copies: &[],
        };
        let ticket = model.submit(&batch)?;
        if !rows.is_empty() {
            model.sample(ticket, &Sampling { rows: &self.sampling, ..Sampling::default() })?;
        }
        Ok(ticket)
    }

    fn finish(&mut self, model: &mut Model, ticket: Ticket) -> Result<()> {
        model.wait(ticket, PATIENCE, &mut self.tokens, &mut self.logprobs)?;
        model.release(ticket);
        Ok(())
    }
}

/// Bytes of the weight files: what a decode step must read at least.
fn weight_bytes(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|extension| extension == "safetensors") {
            bytes += fs::metadata(entry.path())?.len();
        }
    }
    Ok(bytes)
}
