//! The backend under test, and short ways to load it and to run steps on it.

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use tokenmill_backend::abi::Row;
use tokenmill_backend::{Backend, Batch, Error, Load, Model, Sampling, Ticket};

/// Why a check ends early.
#[derive(Debug)]
pub(crate) enum Stop {
    Skip(String),
    Fail(String),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Fail(error.to_string())
    }
}

pub(crate) fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Stop> {
    if holds { Ok(()) } else { Err(Stop::Fail(otherwise())) }
}

/// Tokens of one KV block in every check but the one about block sizes.
pub(crate) const BLOCK: u32 = 16;
pub(crate) const MAX_TOKENS: u32 = 64;
pub(crate) const MAX_ROWS: u32 = 32;
pub(crate) const MAX_SEQS: u32 = 8;
pub(crate) const DEPTH: u32 = 2;
/// Blocks that the checks use.
pub(crate) const BLOCKS: u32 = 24;

/// What the model is spread over; see `tm_load`.
#[derive(Clone, Copy, Debug)]
pub struct Ranks<'a> {
    pub devices: &'a [i32],
    pub tensor_parallel: u32,
}

impl Ranks<'_> {
    pub const ONE: Ranks<'static> = Ranks { devices: &[0], tensor_parallel: 1 };
}

pub(crate) struct Subject<'a> {
    pub(crate) backend: &'a Backend,
    pub(crate) dir: &'a Path,
    pub(crate) options: &'a str,
    pub(crate) ranks: Ranks<'a>,
    /// Enough for the checks; exact once a first load has told the size of a block.
    kv_bytes: Cell<u64>,
}

impl<'a> Subject<'a> {
    pub(crate) fn new(backend: &'a Backend, dir: &'a Path, options: &'a str, ranks: Ranks<'a>) -> Self {
        Self { backend, dir, options, ranks, kv_bytes: Cell::new(256 << 20) }
    }

    /// What `load` asks for; checks change parts of it.
    pub(crate) fn request(&self) -> Load<'a> {
        Load {
            dir: self.dir,
            devices: self.ranks.devices,
            tensor_parallel: self.ranks.tensor_parallel,
            block_tokens: BLOCK,
            max_tokens: MAX_TOKENS,
            max_rows: MAX_ROWS,
            max_seqs: MAX_SEQS,
            depth: DEPTH,
            kv_bytes: self.kv_bytes.get(),
            options: self.options,
            progress: None,
        }
    }

    pub(crate) fn load(&self) -> Result<Model, Stop> {
        let model = self.backend.load(&self.request())?;
        self.kv_bytes.set(u64::from(2 * BLOCKS) * model.info().kv_block_bytes);
        Ok(model)
    }

    /// How far logits of the same row may differ, as a part of the row's range, when they are computed in another
    /// order: f32 sums, or rounding to a narrower type on the way.
    pub(crate) fn tolerance(&self, model: &Model) -> f32 {
        let narrow = ["bf16", "f16", "fp8", "int"];
        let has = |text: &str| narrow.iter().any(|name| text.contains(name));
        if has(&model.info().weights) || has(self.options) { 0.03 } else { 0.001 }
    }

    /// Whether two computations of the same row agree.
    pub(crate) fn same(&self, model: &Model, what: &str, a: &[f32], b: &[f32]) -> Result<(), Stop> {
        let bound = self.tolerance(model) * range(a).max(f32::MIN_POSITIVE);
        let far = a.iter().zip(b).position(|(a, b)| (a - b).abs() > bound || a.is_nan() != b.is_nan());
        ensure(a.len() == b.len() && far.is_none(), || {
            let token = far.unwrap_or(0);
            format!(
                "{what}: the logit of token {token} is {} and {}, the bound is {bound}",
                a[token], b[token]
            )
        })
    }

    pub(crate) fn all_same(
        &self,
        model: &Model,
        what: &str,
        a: &[Vec<f32>],
        b: &[Vec<f32>],
    ) -> Result<(), Stop> {
        ensure(a.len() == b.len(), || format!("{what}: {} rows and {}", a.len(), b.len()))?;
        for (row, (a, b)) in a.iter().zip(b).enumerate() {
            self.same(model, &format!("{what}, row {row}"), a, b)?;
        }
        Ok(())
    }
}

fn range(logits: &[f32]) -> f32 {
    let finite = || logits.iter().copied().filter(|logit| logit.is_finite());
    finite().fold(f32::MIN, f32::max) - finite().fold(f32::MAX, f32::min)
}

/// Token ids that look random, below the model's vocabulary.
pub(crate) fn prompt(model: &Model, salt: u32, len: usize) -> Vec<i32> {
    let mut state = salt.wrapping_mul(2_654_435_761).wrapping_add(12345);
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) % model.info().vocab) as i32
        })
        .collect()
}

/// One sequence of a step.
#[derive(Clone, Debug)]
pub(crate) struct Seq {
    pub(crate) tokens: Vec<i32>,
    pub(crate) position: u32,
    pub(crate) blocks: Vec<u32>,
    /// Indices into `tokens`.
    pub(crate) rows: Vec<u32>,
}

impl Seq {
    /// `tokens` from `position` on, with the row of the last one.
    pub(crate) fn new(tokens: &[i32], position: u32, blocks: &[u32]) -> Self {
        let rows = vec![tokens.len() as u32 - 1];
        Self { tokens: tokens.to_vec(), position, blocks: blocks.to_vec(), rows }
    }

    pub(crate) fn all_rows(mut self) -> Self {
        self.rows = (0..self.tokens.len() as u32).collect();
        self
    }
}

/// The columns of a step, owned, so that checks can spoil them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Step {
    pub(crate) tokens: Vec<i32>,
    pub(crate) seq_start: Vec<u32>,
    pub(crate) seq_pos: Vec<u32>,
    pub(crate) block_start: Vec<u32>,
    pub(crate) blocks: Vec<u32>,
    pub(crate) rows: Vec<u32>,
    pub(crate) copies: Vec<(u32, u32)>,
}

impl Step {
    pub(crate) fn new(seqs: &[Seq]) -> Self {
        let mut step = Self { seq_start: vec![0], block_start: vec![0], ..Self::default() };
        for seq in seqs {
            let first = step.tokens.len() as u32;
            step.rows.extend(seq.rows.iter().map(|row| first + row));
            step.tokens.extend(&seq.tokens);
            step.blocks.extend(&seq.blocks);
            step.seq_pos.push(seq.position);
            step.seq_start.push(step.tokens.len() as u32);
            step.block_start.push(step.blocks.len() as u32);
        }
        step
    }

    pub(crate) fn batch(&self) -> Batch<'_> {
        Batch {
            tokens: &self.tokens,
            seq_start: &self.seq_start,
            seq_pos: &self.seq_pos,
            block_start: &self.block_start,
            blocks: &self.blocks,
            rows: &self.rows,
            copies: &self.copies,
        }
    }
}

/// What a step gave, per row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ran {
    pub(crate) tokens: Vec<i32>,
    pub(crate) logprobs: Vec<f32>,
    pub(crate) logits: Vec<Vec<f32>>,
}

/// Queues a step that is sampled greedily.
pub(crate) fn start(model: &mut Model, step: &Step) -> Result<Ticket, Stop> {
    let ticket = model.submit(&step.batch())?;
    model
        .sample(ticket, &Sampling { rows: &vec![Row::default(); step.rows.len()], ..Sampling::default() })?;
    Ok(ticket)
}

/// Waits for a ticket, reads everything about it and releases it.
pub(crate) fn finish(model: &mut Model, ticket: Ticket, n_rows: usize) -> Result<Ran, Stop> {
    let (mut tokens, mut logprobs) = (Vec::new(), Vec::new());
    model.wait(ticket, Duration::MAX, &mut tokens, &mut logprobs)?;
    let mut logits = Vec::new();
    for row in 0..n_rows {
        logits.push(model.logits(ticket, row as u32)?.to_vec());
    }
    model.release(ticket);
    Ok(Ran { tokens, logprobs, logits })
}

/// One step from beginning to end, sampled greedily.
pub(crate) fn forward(model: &mut Model, seqs: &[Seq]) -> Result<Ran, Stop> {
    run(model, &Step::new(seqs))
}

pub(crate) fn run(model: &mut Model, step: &Step) -> Result<Ran, Stop> {
    let ticket = start(model, step)?;
    finish(model, ticket, step.rows.len())
}

/// One step from beginning to end, sampled as asked.
pub(crate) fn sampled(model: &mut Model, seqs: &[Seq], sampling: &Sampling<'_>) -> Result<Ran, Stop> {
    let step = Step::new(seqs);
    let ticket = model.submit(&step.batch())?;
    let sampled = model.sample(ticket, sampling);
    let ran = sampled.map_err(Stop::from).and_then(|()| finish(model, ticket, step.rows.len()));
    model.release(ticket);
    ran
}
