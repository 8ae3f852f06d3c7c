//! Copies of what a caller lent: the columns of a step and of its sampling. Jobs are used again, so
//! that a steady state allocates nothing.

use std::sync::Arc;

use tokenmill_backend_abi as abi;
use tokenmill_backend_model::device::{RowSampling, Step};

/// One step for every rank.
#[derive(Default)]
pub(crate) struct StepJob {
    pub(crate) ticket: u64,
    pub(crate) slot: usize,
    /// The slot that tokens `-1-r` refer to.
    pub(crate) previous: Option<usize>,
    tokens: Vec<i32>,
    seq_start: Vec<u32>,
    seq_pos: Vec<u32>,
    block_start: Vec<u32>,
    blocks: Vec<u32>,
    rows: Vec<u32>,
    copies: Vec<(u32, u32)>,
}

impl StepJob {
    pub(crate) fn copy(&mut self, step: &Step<'_>) {
        replace(&mut self.tokens, step.tokens);
        replace(&mut self.seq_start, step.seq_start);
        replace(&mut self.seq_pos, step.seq_pos);
        replace(&mut self.block_start, step.block_start);
        replace(&mut self.blocks, step.blocks);
        replace(&mut self.rows, step.rows);
        replace(&mut self.copies, step.copies);
    }

    pub(crate) fn step(&self) -> Step<'_> {
        Step {
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

/// `tm_sampling` as slices.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sampling<'a> {
    pub(crate) rows: &'a [abi::Row],
    pub(crate) bias_token: &'a [u32],
    pub(crate) bias_value: &'a [f32],
    pub(crate) seen_token: &'a [u32],
    pub(crate) seen_count: &'a [u32],
    pub(crate) masks: &'a [u32],
    /// Words of one mask.
    pub(crate) mask_words: usize,
}

impl<'a> Sampling<'a> {
    /// Row `index` with its ranges resolved; `Err` names a range that lies outside its column.
    pub(crate) fn row(&self, index: usize) -> Result<RowSampling<'a>, &'static str> {
        let row = &self.rows[index];
        let bias = range(row.bias, row.n_bias, self.bias_token.len()).ok_or("bias")?;
        let seen = range(row.seen, row.n_seen, self.seen_token.len()).ok_or("seen")?;
        let mask = match row.mask as usize {
            0 => &[],
            mask => {
                let start = (mask - 1) * self.mask_words;
                self.masks.get(start..start + self.mask_words).ok_or("mask")?
            }
        };
        let forced = match row.forced {
            -1 => None,
            id => Some(u32::try_from(id).map_err(|_| "forced")?),
        };
        Ok(RowSampling {
            seed: row.seed,
            temperature: row.temperature,
            top_p: row.top_p,
            min_p: row.min_p,
            repetition: row.repetition,
            presence: row.presence,
            frequency: row.frequency,
            top_k: row.top_k,
            forced,
            bias_token: &self.bias_token[bias.clone()],
            bias_value: &self.bias_value[bias],
            seen_token: &self.seen_token[seen.clone()],
            seen_count: &self.seen_count[seen],
            mask,
        })
    }
}

fn range(start: u32, len: u32, column: usize) -> Option<std::ops::Range<usize>> {
    let end = (start as usize).checked_add(len as usize)?;
    (end <= column).then_some(start as usize..end)
}

/// The sampling of one step for every rank.
#[derive(Default)]
pub(crate) struct SampleJob {
    pub(crate) ticket: u64,
    pub(crate) slot: usize,
    rows: Vec<abi::Row>,
    bias_token: Vec<u32>,
    bias_value: Vec<f32>,
    seen_token: Vec<u32>,
    seen_count: Vec<u32>,
    masks: Vec<u32>,
    mask_words: usize,
}

impl SampleJob {
    pub(crate) fn copy(&mut self, from: &Sampling<'_>) {
        replace(&mut self.rows, from.rows);
        replace(&mut self.bias_token, from.bias_token);
        replace(&mut self.bias_value, from.bias_value);
        replace(&mut self.seen_token, from.seen_token);
        replace(&mut self.seen_count, from.seen_count);
        replace(&mut self.masks, from.masks);
        self.mask_words = from.mask_words;
    }

    pub(crate) fn sampling(&self) -> Sampling<'_> {
        Sampling {
            rows: &self.rows,
            bias_token: &self.bias_token,
            bias_value: &self.bias_value,
            seen_token: &self.seen_token,
            seen_count: &self.seen_count,
            masks: &self.masks,
            mask_words: self.mask_words,
        }
    }
}

fn replace<T: Copy>(to: &mut Vec<T>, from: &[T]) {
    to.clear();
    to.extend_from_slice(from);
}

/// Jobs that no rank holds any more are filled again.
pub(crate) struct Pool<T> {
    jobs: Vec<Arc<T>>,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self { jobs: Vec::new() }
    }
}

impl<T: Default> Pool<T> {
    /// A job that only the pool holds, changed by `fill`.
    pub(crate) fn take(&mut self, fill: impl FnOnce(&mut T)) -> Arc<T> {
        let free = self.jobs.iter_mut().position(|job| Arc::get_mut(job).is_some());
        let index = free.unwrap_or_else(|| {
            self.jobs.push(Arc::default());
            self.jobs.len() - 1
        });
        if let Some(job) = Arc::get_mut(&mut self.jobs[index]) {
            fill(job);
        }
        self.jobs[index].clone()
    }
}
