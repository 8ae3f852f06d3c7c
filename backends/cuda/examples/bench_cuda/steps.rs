//! Whole decode steps of a model with random weights: time, the host's share, the device's idle share.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use serde_json::{Value, json};
use tokenmill_backend_model::config::Config;
use tokenmill_backend_model::decoder::{Decoder, Sizes};
use tokenmill_backend_model::device::{Dtype, RowSampling};
use tokenmill_backend_model::error::Error;
use tokenmill_backend_model::shard::Place;
use tokenmill_backend_model::transformer::{How, Transformer};
use tokenmill_backend_model::weights::Weights;
use tokenmill_cuda::{Cuda, Event};

use crate::case::{Case, Kind};
use crate::clock::summary;
use crate::geometry::Geometry;
use crate::inputs::{Failure, Sequences, open};
use crate::random_model::RandomModel;

const BLOCK: usize = 16;
const ROUNDS: usize = 5;
/// Steps that are queued before the first one's tokens are waited for.
const SLOTS: usize = 2;

/// What is decoded.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) of: Geometry,
    pub(crate) sequences: usize,
    /// Keys at the first step.
    pub(crate) context: usize,
    /// Of a round.
    pub(crate) steps: usize,
    /// Whose kernels compute the layers: the option of the library.
    pub(crate) gemm: &'static str,
}

/// Figures of one round, per step.
struct Round {
    step_us: f64,
    host_us: f64,
    idle_percent: f64,
}

pub(crate) fn measure(case: &Case) -> Result<Value, Failure> {
    let Kind::Steps(shape) = case.kind else { return Err("this case is not one of steps".into()) };
    let mut run = Run::new(shape)?;
    run.round()?; // Graphs are recorded, clocks go up.
    let rounds = (0..ROUNDS).map(|_| run.round()).collect::<Result<Vec<_>, _>>()?;
    let of = |figure: fn(&Round) -> f64| rounds.iter().map(figure).collect::<Vec<_>>();
    let bytes = run.bytes();
    let rate = |round: &Round| shape.sequences as f64 / round.step_us * 1e6;
    Ok(json!({
        "step_us": summary(&of(|round| round.step_us)),
        "tokens_per_s": summary(&of_each(&rounds, rate)),
        "host_us": summary(&of(|round| round.host_us)),
        "idle_percent": summary(&of(|round| round.idle_percent)),
        "bytes": bytes,
        "gb_per_s": summary(&of_each(&rounds, |round| bytes as f64 / round.step_us / 1e3)),
    }))
}

fn of_each(rounds: &[Round], figure: impl Fn(&Round) -> f64) -> Vec<f64> {
    rounds.iter().map(figure).collect()
}

type Done = Result<(), Error>;

struct Run {
    shape: Shape,
    decoder: Decoder<Cuda>,
    sequences: Sequences,
    sampling: Vec<RowSampling<'static>>,
    /// Around each step of a round.
    timers: Vec<[Event; 2]>,
    /// Of weights that a step reads.
    weight_bytes: u64,
    done: (Sender<Done>, Receiver<Done>),
    /// Steps so far.
    count: usize,
}

impl Run {
    fn new(shape: Shape) -> Result<Self, Failure> {
        let Shape { of, sequences, context, steps, gemm } = shape;
        let source = RandomModel::new(&of);
        check_host_memory(source.bytes())?;
        let mut device = open(&format!("gemm={gemm}"))?;
        let timers = (0..steps)
            .map(|_| Ok([device.gpu().timer()?, device.gpu().timer()?]))
            .collect::<Result<_, Failure>>()?;
        let config = Config::parse(of.config().to_string().as_bytes())?;
        let keys = context + (ROUNDS + 1) * steps;
        let model = {
            let weights = Weights::open(&source)?;
            let how = How { place: Place::of(0, 1, 1), dtype: None, context: keys, progress: &mut |_| {} };
            Transformer::load(&mut device, &config, &weights, how)?
        };
        // Of a table that is not the output layer, too, a step reads a row per sequence.
        let table = if of.tied { 0 } else { 2 * (of.vocab * of.hidden) as u64 };
        let weight_bytes = model.bytes - table;
        let blocks = sequences * keys.div_ceil(BLOCK);
        let sizes = Sizes {
            block_tokens: BLOCK,
            blocks,
            kv_dtype: Dtype::Bf16,
            max_tokens: (sequences * chunk(sequences)).max(sequences),
            max_rows: sequences,
            max_seqs: sequences,
            max_block_refs: blocks,
            slots: SLOTS,
        };
        let decoder = Decoder::new(device, model, &sizes)?;
        let mut run = Self {
            shape,
            decoder,
            sequences: Sequences::new(sequences, 1, keys, BLOCK),
            sampling: vec![RowSampling::GREEDY; sequences],
            timers,
            weight_bytes,
            done: channel(),
            count: 0,
        };
        run.prompt(keys)?;
        Ok(run)
    }

    /// Computes every sequence's context in chunks, and leaves them ready to decode.
    fn prompt(&mut self, keys: usize) -> Result<(), Failure> {
        let Shape { sequences, context, .. } = self.shape;
        let mut at = 0;
        while at < context {
            let count = chunk(sequences).min(context - at);
            let mut chunk = Sequences::new(sequences, count, keys, BLOCK);
            chunk.start_at(at);
            self.decoder.forward(&chunk.step(), 0, None)?;
            self.decoder.sample(&self.sampling, 0)?;
            self.tell(0)?;
            self.done.1.recv()??;
            at += count;
        }
        self.sequences.start_at(context);
        self.sequences.follow();
        Ok(())
    }

    /// Decodes `steps` tokens of each sequence, two steps in flight.
    fn round(&mut self) -> Result<Round, Failure> {
        let mut host = Vec::with_capacity(self.shape.steps);
        let start = Instant::now();
        for step in 0..self.shape.steps {
            let (slot, previous) = ((self.count + 1) % SLOTS, self.count % SLOTS);
            let queueing = Instant::now();
            self.timers[step][0].record()?;
            self.decoder.forward(&self.sequences.step(), slot, Some(previous))?;
            self.decoder.sample(&self.sampling, slot)?;
            self.timers[step][1].record()?;
            self.tell(slot)?;
            host.push(queueing.elapsed().as_secs_f64() * 1e6);
            if step > 0 {
                self.done.1.recv()??;
            }
            self.sequences.advance();
            self.count += 1;
        }
        self.done.1.recv()??;
        let step_us = start.elapsed().as_secs_f64() * 1e6 / self.shape.steps as f64;
        host.sort_by(f64::total_cmp);
        Ok(Round { step_us, host_us: host[host.len() / 2], idle_percent: self.idle()? })
    }

    /// Share of the round in which the device was done with one step and the next had not come.
    fn idle(&self) -> Result<f64, Error> {
        let mut gaps = 0.0;
        for pair in self.timers.windows(2) {
            gaps += pair[1][0].milliseconds_since(&pair[0][1])?;
        }
        let (first, last) = (&self.timers[0], &self.timers[self.timers.len() - 1]);
        Ok(f64::from(100.0 * gaps / last[1].milliseconds_since(&first[0])?))
    }

    fn tell(&mut self, slot: usize) -> Result<(), Error> {
        let told = self.done.0.clone();
        self.decoder.fetch(slot, move |result| {
            // Nobody listens any more only when an error ended the round.
            let _ = told.send(result.map(|_| ()));
        })
    }

    /// What a step of the middle round reads at least: weights, keys and values.
    fn bytes(&self) -> u64 {
        let Shape { of, sequences, context, steps, .. } = self.shape;
        let keys = context + (1 + ROUNDS / 2) * steps + steps / 2;
        self.weight_bytes + (4 * of.layers * of.kv_heads * of.dim * keys * sequences) as u64
    }
}

/// Tokens of a prompt that each of `sequences` sequences computes in one step.
fn chunk(sequences: usize) -> usize {
    (2048 / sequences).max(1)
}

/// The weights are in host memory, once, until they are loaded.
fn check_host_memory(needed: usize) -> Result<(), Failure> {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let free = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    match free {
        Some(kib) if kib * 1024 < needed + needed / 8 => {
            Err(format!("{kib} KiB of host memory are free, the weights take {needed} bytes").into())
        }
        _ => Ok(()),
    }
}
