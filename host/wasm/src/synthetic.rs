//! Made-up steps, to try a policy before it is trusted with real ones and to time it.

use std::time::{Duration, Instant};

use tokenmill_policy::sample::{Choices, Knobs, Logits, Ragged, Sampler};
use tokenmill_policy::schedule::{Order, Scheduler};
use tokenmill_policy::{Error, sample, schedule};

use crate::error::{Failure, Reason};
use crate::plugin::{Kind, Plugin};

/// Tokens of each prompt.
const PROMPT: u32 = 24;
/// Steps of a dry run, for each of these numbers of sequences.
const STEPS: u32 = 4;
const SIZES: [u32; 3] = [1, 7, 64];

/// Runs a policy for a few steps. What it declares undecided is its right.
pub(crate) fn dry_run(plugin: &Plugin) -> Result<(), Failure> {
    for size in SIZES {
        match plugin.kind() {
            Kind::Sampler => {
                let mut sampler = plugin.sampler().map_err(|error| Failure::bad(error.to_string()))?;
                let mut rows = Rows::new(size, plugin.vocab());
                (0..STEPS).try_for_each(|_| judge(plugin, rows.step(&mut *sampler)))?;
            }
            Kind::Scheduler => {
                let mut scheduler = plugin.scheduler().map_err(|error| Failure::bad(error.to_string()))?;
                let mut queue = Queue::new(size);
                (0..STEPS).try_for_each(|_| judge(plugin, queue.step(&mut *scheduler)))?;
            }
        }
    }
    plugin.record().reset();
    Ok(())
}

fn judge(plugin: &Plugin, step: Result<(), Error>) -> Result<(), Failure> {
    let Err(error) = step else { return Ok(()) };
    let failures = plugin.health().failures;
    let worst = failures.keys().find(|reason| **reason != Reason::Undecided);
    worst.map_or(Ok(()), |reason| Err(Failure::new(*reason, error.to_string())))
}

/// Rows of requests that decode.
pub(crate) struct Rows {
    vocab: u32,
    ids: Vec<u64>,
    tenants: Vec<u64>,
    positions: Vec<u32>,
    generated: Vec<u32>,
    remaining: Vec<u32>,
    scores: Vec<f32>,
    seeds: Vec<u64>,
    starts: Vec<u32>,
    accepted: Vec<u32>,
    none: Vec<u32>,
    knobs: Knobs,
    choices: Choices,
    logits: Noise,
    /// By the policy, in the last step.
    pub(crate) took: Duration,
}

impl Rows {
    pub(crate) fn new(rows: u32, vocab: u32) -> Self {
        let n = rows as usize;
        let each =
            |value: u64| (0..u64::from(rows)).map(|row| scramble(row ^ value << 32)).collect::<Vec<_>>();
        let prompt =
            each(1).into_iter().flat_map(|seed| (0..PROMPT).map(move |i| token(seed ^ u64::from(i), vocab)));
        Self {
            vocab,
            ids: (1..=u64::from(rows)).collect(),
            tenants: vec![0; n],
            positions: vec![PROMPT; n],
            generated: vec![0; n],
            remaining: vec![64; n],
            scores: vec![0.0; n],
            seeds: each(2),
            starts: (0..=rows).map(|row| row * PROMPT).collect(),
            accepted: prompt.collect(),
            none: vec![0; n + 1],
            knobs: Knobs::default(),
            choices: Choices::default(),
            logits: Noise { vocab, row: (0..vocab).map(|i| noise(u64::from(i))).collect() },
            took: Duration::ZERO,
        }
    }

    /// One step: what the engine does with a policy, without a model.
    pub(crate) fn step(&mut self, sampler: &mut dyn Sampler) -> Result<(), Error> {
        let view = sample::Columns {
            ids: &self.ids,
            requests: &self.ids,
            tenants: &self.tenants,
            positions: &self.positions,
            generated: &self.generated,
            remaining: &self.remaining,
            scores: &self.scores,
            seeds: &self.seeds,
            accepted: Ragged { starts: &self.starts, values: &self.accepted },
            assumed: Ragged { starts: &self.none, values: &[] },
            finished: &[],
            attributes: None,
        };
        self.knobs.clear();
        self.choices.clear();
        let began = Instant::now();
        let mut asked = sampler.plan(&view, &mut self.knobs);
        if asked.is_ok() && !self.knobs.inspect.is_empty() {
            asked = sampler.pick(&view, &mut self.logits, &self.knobs.inspect, &mut self.choices);
        }
        self.took = began.elapsed();
        let failed = asked.is_err();
        self.advance(failed);
        asked
    }

    /// The next position. After a failure all tokens are shown again.
    fn advance(&mut self, failed: bool) {
        let chosen: Vec<(u32, u32)> = self.choices.accept.clone();
        let shown = if failed { self.positions.first().map_or(0, |position| position + 1) } else { 1 };
        self.accepted.clear();
        for (row, seed) in self.seeds.iter_mut().enumerate() {
            *seed = scramble(*seed);
            let own = chosen.iter().find(|choice| choice.0 as usize == row).map(|choice| choice.1);
            let next = own.unwrap_or_else(|| token(*seed, self.vocab));
            self.accepted.extend((1..shown).map(|i| token(u64::from(i), self.vocab)));
            self.accepted.push(next);
            self.positions[row] += 1;
            self.generated[row] += 1;
            self.scores[row] -= 1.5;
            self.remaining[row] = self.remaining[row].saturating_sub(1).max(1);
        }
        self.starts = (0..=self.ids.len() as u32).map(|row| row * shown).collect();
    }
}

/// The same row of logits everywhere.
struct Noise {
    vocab: u32,
    row: Vec<f32>,
}

impl Logits for Noise {
    fn vocab(&self) -> u32 {
        self.vocab
    }

    /// Not sorted by search: a policy is timed, not this.
    fn top_k(&mut self, row: u32, k: u32) -> Result<(Vec<u32>, Vec<f32>), Error> {
        let k = k.min(self.vocab);
        Ok((
            (0..k).map(|i| (i + row) % self.vocab).collect(),
            (0..k).map(|i| -0.5 - i as f32 * 0.1).collect(),
        ))
    }

    fn read(&mut self, _: u32) -> Result<&[f32], Error> {
        Ok(&self.row)
    }
}

/// Sequences that wait, prefill and decode.
pub(crate) struct Queue {
    now_us: u64,
    ids: Vec<u64>,
    pending: Vec<u32>,
    resident: Vec<u32>,
    generated: Vec<u32>,
    arrived_us: Vec<u64>,
    priority: Vec<i32>,
    tenant: Vec<u64>,
    deadline_us: Vec<u64>,
    prefix: Vec<u64>,
    finished: Vec<u64>,
    order: Order,
    /// By the policy, in the last step.
    pub(crate) took: Duration,
}

impl Queue {
    pub(crate) fn new(sequences: u32) -> Self {
        let n = u64::from(sequences);
        Self {
            now_us: 1_000_000,
            ids: (1..=n).collect(),
            pending: (0..sequences).map(|i| if i % 4 == 3 { PROMPT * (i % 9 + 1) } else { 1 }).collect(),
            resident: (0..sequences).map(|i| if i % 4 == 3 { 0 } else { PROMPT + i }).collect(),
            generated: (0..sequences).map(|i| if i % 4 == 3 { 0 } else { i }).collect(),
            arrived_us: (0..n).map(|i| i * 500).collect(),
            priority: (0..sequences).map(|i| (i % 3) as i32 - 1).collect(),
            tenant: (0..n).map(|i| scramble(i % 5)).collect(),
            deadline_us: (0..n).map(|i| if i % 7 == 0 { 2_000_000 + i } else { u64::MAX }).collect(),
            prefix: (0..n).map(|i| scramble(i % 11)).collect(),
            finished: Vec::new(),
            order: Order::default(),
            took: Duration::ZERO,
        }
    }

    pub(crate) fn step(&mut self, scheduler: &mut dyn Scheduler) -> Result<(), Error> {
        let view = schedule::Columns {
            now_us: self.now_us,
            token_budget: 2048,
            free_blocks: 4096,
            block_tokens: 16,
            free_seqs: 64,
            ids: &self.ids,
            pending: &self.pending,
            resident: &self.resident,
            generated: &self.generated,
            arrived_us: &self.arrived_us,
            priority: &self.priority,
            tenant: &self.tenant,
            deadline_us: &self.deadline_us,
            prefix: &self.prefix,
            finished: &self.finished,
            attributes: None,
        };
        self.order.clear();
        let began = Instant::now();
        let asked = scheduler.plan(&view, &mut self.order);
        self.took = began.elapsed();
        self.now_us += 10_000;
        for (&index, &tokens) in self.order.indices.iter().zip(&self.order.tokens) {
            let index = index as usize;
            let done = tokens.min(self.pending[index]);
            self.resident[index] += done;
            self.pending[index] -= done;
            if self.pending[index] == 0 {
                self.pending[index] = 1;
                self.generated[index] += 1;
            }
        }
        asked
    }
}

/// SplitMix64, Steele, Lea and Flood 2014.
fn scramble(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

fn token(x: u64, vocab: u32) -> u32 {
    (scramble(x) % u64::from(vocab.max(1))) as u32
}

/// In [-8, 8).
fn noise(x: u64) -> f32 {
    (scramble(x) >> 40) as f32 / (1 << 20) as f32 - 8.0
}
