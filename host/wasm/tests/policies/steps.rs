//! Steps as the engine makes them, with few rows.

use std::collections::BTreeMap;

use tokenmill_policy::Error;
use tokenmill_policy::sample::{Choices, Columns, Knobs, Logits, Ragged, Sampler};
use tokenmill_policy::schedule::{self, Order, Scheduler};
use tokenmill_wasm::{Plugin, Reason};

use crate::guests::VOCAB;

/// Rows of one step: sequence, tenant, position, tokens that are shown.
pub(crate) type Row<'a> = (u64, u64, u32, &'a [u32]);

pub(crate) fn plan(sampler: &mut dyn Sampler, rows: &[Row<'_>], finished: &[u64]) -> Result<Knobs, Error> {
    let seeds: Vec<u64> = rows.iter().map(|row| row.0 * 1_000_003).collect();
    ask(sampler, rows, finished, &seeds).map(|(knobs, _)| knobs)
}

/// `plan`, and `pick` if rows are inspected.
pub(crate) fn ask(
    sampler: &mut dyn Sampler,
    rows: &[Row<'_>],
    finished: &[u64],
    seeds: &[u64],
) -> Result<(Knobs, Choices), Error> {
    ask_with(sampler, rows, finished, seeds, &mut Flat([0.5; VOCAB as usize]))
}

pub(crate) fn ask_with(
    sampler: &mut dyn Sampler,
    rows: &[Row<'_>],
    finished: &[u64],
    seeds: &[u64],
    logits: &mut dyn Logits,
) -> Result<(Knobs, Choices), Error> {
    let ids: Vec<u64> = rows.iter().map(|row| row.0).collect();
    let tenants: Vec<u64> = rows.iter().map(|row| row.1).collect();
    let positions: Vec<u32> = rows.iter().map(|row| row.2).collect();
    let ones = vec![1; rows.len()];
    let scores = vec![-1.0; rows.len()];
    let accepted: Vec<u32> = rows.iter().flat_map(|row| row.3).copied().collect();
    let ends = rows.iter().scan(0, |end, row| {
        *end += row.3.len() as u32;
        Some(*end)
    });
    let starts: Vec<u32> = std::iter::once(0).chain(ends).collect();
    let zeros = vec![0; rows.len() + 1];
    let view = Columns {
        ids: &ids,
        requests: &ids,
        tenants: &tenants,
        positions: &positions,
        generated: &ones,
        remaining: &ones,
        scores: &scores,
        seeds,
        accepted: Ragged { starts: &starts, values: &accepted },
        assumed: Ragged { starts: &zeros, values: &[] },
        finished,
        attributes: None,
    };
    let (mut knobs, mut choices) = (Knobs::default(), Choices::default());
    sampler.plan(&view, &mut knobs)?;
    if !knobs.inspect.is_empty() {
        sampler.pick(&view, logits, &knobs.inspect, &mut choices)?;
    }
    Ok((knobs, choices))
}

/// One row of one sequence, shown from the start.
pub(crate) fn once(plugin: &Plugin) -> Result<(Knobs, Choices), Error> {
    let mut sampler = plugin.sampler().unwrap();
    ask(&mut *sampler, &[(1, 0, 3, &[1, 2, 3])], &[], &[7])
}

struct Flat([f32; VOCAB as usize]);

impl Logits for Flat {
    fn vocab(&self) -> u32 {
        VOCAB
    }

    fn top_k(&mut self, _: u32, k: u32) -> Result<(Vec<u32>, Vec<f32>), Error> {
        Ok(((0..k).collect(), vec![-1.0; k as usize]))
    }

    fn read(&mut self, _: u32) -> Result<&[f32], Error> {
        Ok(&self.0)
    }
}

/// A step of so many sequences that decode.
pub(crate) fn order(scheduler: &mut dyn Scheduler, sequences: u32) -> Result<Order, Error> {
    let ids: Vec<u64> = (0..u64::from(sequences)).collect();
    let ones = vec![1; sequences as usize];
    let view = schedule::Columns {
        now_us: 5,
        token_budget: 64,
        free_blocks: 64,
        block_tokens: 16,
        free_seqs: 8,
        ids: &ids,
        pending: &ones,
        resident: &ones,
        ..schedule::Columns::default()
    };
    let mut order = Order::default();
    scheduler.plan(&view, &mut order)?;
    Ok(order)
}

/// Failures of a policy, with their reasons.
pub(crate) fn failures(plugin: &Plugin) -> BTreeMap<Reason, u64> {
    plugin.health().failures
}

pub(crate) fn only(reason: Reason) -> BTreeMap<Reason, u64> {
    BTreeMap::from([(reason, 1)])
}
