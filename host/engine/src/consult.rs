//! Sampling policies: what they are shown, and their answers checked and applied to the rows of a step.

use tokenmill_backend::{Model, Ticket};
use tokenmill_policy::sample::{Choices, Knobs, Logits, Ragged, View};
use tokenmill_policy::{Attributes, Error, Sampler};

use crate::batch::Step;
use crate::engine::Engine;
use crate::event::Failure;
use crate::requests::Requests;
use crate::sampling::Sampling;

/// Columns of one policy's rows, and its answers; kept for their memory.
#[derive(Default)]
pub(crate) struct Consultation {
    /// Rows of the step, by row of the view.
    rows: Vec<u32>,
    ids: Vec<u64>,
    requests: Vec<u64>,
    /// Slots of requests.
    slots: Vec<u32>,
    positions: Vec<u32>,
    scores: Vec<f32>,
    starts: Vec<u32>,
    accepted: Vec<u32>,
    assumed: Vec<u32>,
    knobs: Knobs,
    choices: Choices,
    /// Sequences that ended since each policy was last asked.
    pub(crate) finished: Vec<Vec<u64>>,
}

impl Engine {
    /// Asks each policy that has rows in the step. A policy without a valid answer is bypassed, or its
    /// requests fail if it is enforcing.
    pub(crate) fn consult(&mut self, step: &mut Step, ticket: Ticket) {
        for policy in 0..self.samplers.as_mut_slice().len() {
            self.show(step, policy);
            if self.consultation.rows.is_empty() {
                continue;
            }
            let answer = self.ask_sampler(policy, ticket);
            self.consultation.finished[policy].clear();
            if answer.is_ok() {
                self.end_unlisted(step);
                continue;
            }
            self.stats.policy_fallbacks += 1;
            self.forget_told(step);
            let named = &self.samplers.as_mut_slice()[policy];
            if named.enforcing {
                let failure = Failure::Policy(named.name.clone());
                for request in std::mem::take(&mut self.consultation.slots) {
                    self.fail(request, &failure);
                }
            }
        }
    }

    /// Fills the columns with the rows of one policy.
    fn show(&mut self, step: &Step, policy: usize) {
        let view = &mut self.consultation;
        view.clear();
        for (nth, row) in step.rows.iter().enumerate() {
            let Some(sequence) = self.sequences.get(row.sequence) else { continue };
            let Some(live) = self.requests.peek(sequence.request) else { continue };
            if live.rest.sampler != Some(policy) || row.at < sequence.prompt {
                continue;
            }
            view.rows.push(nth as u32);
            view.ids.push(sequence.id);
            view.requests.push(live.rest.id.0);
            view.slots.push(sequence.request);
            view.positions.push(row.at);
            view.scores.push(sequence.score);
            let told = std::mem::replace(&mut sequence.rest.told, row.at) as usize;
            view.accepted.extend_from_slice(&sequence.tokens.all()[told..]);
            view.starts.push(view.accepted.len() as u32);
            view.assumed.push(0);
        }
    }

    /// Applies a policy's answer; an error leaves the rows as they were.
    fn ask_sampler(&mut self, policy: usize, ticket: Ticket) -> Result<(), Error> {
        let Self { consultation, samplers, requests, model, sampling, limits, .. } = self;
        let Consultation { rows, knobs, choices, .. } = consultation;
        let fields = Fields { requests, slots: &consultation.slots };
        let view = View {
            ids: &consultation.ids,
            requests: &consultation.requests,
            positions: &consultation.positions,
            scores: &consultation.scores,
            accepted: Ragged { starts: &consultation.starts, values: &consultation.accepted },
            assumed: Ragged { starts: &consultation.assumed, values: &[] },
            finished: &consultation.finished[policy],
            attributes: &fields,
        };
        let sampler: &mut dyn Sampler = &mut *samplers.as_mut_slice()[policy].sampler;
        sampler.plan(&view, knobs)?;
        check_knobs(knobs, rows.len(), limits.vocab)?;
        if !knobs.inspect.is_empty() {
            let mut logits = Rows { model, ticket, rows, vocab: limits.vocab };
            sampler.pick(&view, &mut logits, &knobs.inspect, choices)?;
            check_choices(choices, &knobs.inspect, limits.vocab)?;
        }
        sampling.turn(knobs, rows);
        for &(row, token) in choices.accept.iter().rev() {
            // A row that is listed twice keeps its first token: every branch of the request exists already.
            sampling.force(rows[row as usize], token);
        }
        Ok(())
    }

    /// A policy that failed may have lost what it knew: it is told of all tokens again.
    fn forget_told(&mut self, step: &Step) {
        for &row in &self.consultation.rows {
            if let Some(sequence) = self.sequences.get(step.rows[row as usize].sequence) {
                sequence.rest.told = 0;
            }
        }
    }

    /// Branches whose inspected rows were finished, or not listed, end when the step is delivered.
    fn end_unlisted(&mut self, step: &mut Step) {
        let Consultation { knobs, choices, rows, .. } = &self.consultation;
        for row in &knobs.inspect {
            if choices.accept.iter().any(|(accepted, _)| accepted == row) || choices.defer.contains(row) {
                continue;
            }
            let ended = step.rows[rows[*row as usize] as usize].sequence;
            step.ended.push(ended);
            if let Some(sequence) = self.sequences.get(ended) {
                let index = sequence.rest.index as usize;
                self.sequences.pending[index] = 0;
            }
        }
    }
}

impl Consultation {
    fn clear(&mut self) {
        self.rows.clear();
        self.ids.clear();
        self.requests.clear();
        self.slots.clear();
        self.positions.clear();
        self.scores.clear();
        self.starts.clear();
        self.starts.push(0);
        self.accepted.clear();
        self.assumed.clear();
        self.assumed.push(0);
        self.knobs.clear();
        self.choices.clear();
    }
}

impl Sampling {
    /// Sets what a policy wants of its rows.
    fn turn(&mut self, knobs: &Knobs, rows: &[u32]) {
        let at = |row: u32| rows[row as usize] as usize;
        for &row in rows {
            self.differ(row as usize);
        }
        knobs.temperature.iter().for_each(|&(row, value)| self.rows[at(row)].temperature = value);
        knobs.top_k.iter().for_each(|&(row, value)| self.rows[at(row)].top_k = value);
        knobs.top_p.iter().for_each(|&(row, value)| self.rows[at(row)].top_p = value);
        knobs.min_p.iter().for_each(|&(row, value)| self.rows[at(row)].min_p = value);
        let mut done = Vec::new();
        for &(row, ..) in &knobs.bias {
            if !done.contains(&row) {
                done.push(row);
                let more = knobs.bias.iter().filter(|bias| bias.0 == row).map(|bias| (bias.1, bias.2));
                self.add_bias(at(row), more);
            }
        }
        for (nth, (row, mask)) in knobs.allow.iter().enumerate() {
            let same = knobs.allow[..nth].iter().find(|(_, other)| std::sync::Arc::ptr_eq(other, mask));
            self.rows[at(*row)].mask = match same {
                Some((other, _)) => self.rows[at(*other)].mask,
                None => {
                    self.masks.extend_from_slice(mask);
                    (self.masks.len() / mask.len()) as u32
                }
            };
        }
    }
}

fn undecided<T>(what: &str) -> Result<T, Error> {
    Err(Error::Undecided(format!("its answer was refused: {what}")))
}

/// Whether a device would take the answer.
fn check_knobs(knobs: &Knobs, rows: usize, vocab: u32) -> Result<(), Error> {
    let known = |row: &u32| (*row as usize) < rows;
    let good = |all: &[(u32, f32)], range: std::ops::RangeInclusive<f32>| {
        all.iter().all(|(row, value)| known(row) && range.contains(value))
    };
    if !good(&knobs.temperature, 0.0..=f32::MAX) {
        return undecided("temperature");
    }
    if !good(&knobs.top_p, f32::MIN_POSITIVE..=1.0) {
        return undecided("top-p");
    }
    if !good(&knobs.min_p, 0.0..=1.0) {
        return undecided("min-p");
    }
    if !knobs.top_k.iter().all(|(row, _)| known(row)) {
        return undecided("top-k");
    }
    let bias = |(row, token, value): &(u32, u32, f32)| known(row) && *token < vocab && *value < f32::INFINITY;
    if !knobs.bias.iter().all(bias) {
        return undecided("bias");
    }
    if !knobs.allow.iter().all(|(row, mask)| known(row) && mask.len() == vocab.div_ceil(32) as usize) {
        return undecided("allow");
    }
    if !knobs.inspect.iter().all(known) {
        return undecided("inspect");
    }
    Ok(())
}

fn check_choices(choices: &Choices, inspected: &[u32], vocab: u32) -> Result<(), Error> {
    let known = |row: &u32| inspected.contains(row);
    if !choices.accept.iter().all(|(row, token)| known(row) && *token < vocab) {
        return undecided("accept");
    }
    if !choices.defer.iter().chain(&choices.finish).all(known) {
        return undecided("defer or finish");
    }
    Ok(())
}

/// The rows of a view, as the device has them.
struct Rows<'a> {
    model: &'a mut Model,
    ticket: Ticket,
    rows: &'a [u32],
    vocab: u32,
}

impl Rows<'_> {
    fn row(&self, row: u32) -> Result<u32, Error> {
        let unknown = || Error::Undecided(format!("row {row} is not in the view"));
        self.rows.get(row as usize).copied().ok_or_else(unknown)
    }
}

impl Logits for Rows<'_> {
    fn vocab(&self) -> u32 {
        self.vocab
    }

    fn top_k(&mut self, row: u32, k: u32) -> Result<(Vec<u32>, Vec<f32>), Error> {
        let (mut ids, mut logprobs) = (Vec::new(), Vec::new());
        let row = self.row(row)?;
        let read = self.model.top_k(self.ticket, row, k.min(self.vocab), &mut ids, &mut logprobs);
        read.map_err(|error| Error::Undecided(error.to_string()))?;
        Ok((ids, logprobs))
    }

    fn read(&mut self, row: u32) -> Result<&[f32], Error> {
        let row = self.row(row)?;
        self.model.logits(self.ticket, row).map_err(|error| Error::Undecided(error.to_string()))
    }
}

/// Looks up the fields of requests by row of a view.
struct Fields<'a> {
    requests: &'a Requests,
    slots: &'a [u32],
}

impl Attributes for Fields<'_> {
    fn attribute(&self, index: usize, key: &str) -> Option<&str> {
        self.requests.peek(*self.slots.get(index)?)?.attribute(key)
    }
}
