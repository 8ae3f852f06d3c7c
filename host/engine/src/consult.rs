//! Sampling policies: what they are shown, and their answers checked and applied to the rows of a step.

use std::borrow::Cow;

use tokenmill_backend::{Model, Ticket};
use tokenmill_policy::sample::{Attributes, Choices, Columns, Knobs, Logits, Ragged, gather};
use tokenmill_policy::{Error, Named};

use crate::batch::Step;
use crate::engine::Engine;
use crate::event::Failure;
use crate::forks;
use crate::mix::{mix, row_seed};
use crate::requests::Requests;
use crate::sampling::Sampling;

/// Columns of one policy's rows, and its answers; kept for their memory.
#[derive(Default)]
pub(crate) struct Consultation {
    /// Rows of the step, by row of the view.
    pub(crate) rows: Vec<u32>,
    ids: Vec<u64>,
    requests: Vec<u64>,
    /// Slots of requests.
    slots: Vec<u32>,
    tenants: Vec<u64>,
    positions: Vec<u32>,
    generated: Vec<u32>,
    remaining: Vec<u32>,
    scores: Vec<f32>,
    seeds: Vec<u64>,
    starts: Vec<u32>,
    accepted: Vec<u32>,
    assumed: Vec<u32>,
    pub(crate) knobs: Knobs,
    pub(crate) choices: Choices,
    /// Of accepted tokens that fork.
    pub(crate) logprobs: Vec<f32>,
    /// By place of a policy: sequences that ended since it was last asked.
    pub(crate) finished: Vec<Vec<u64>>,
}

impl Engine {
    /// Asks each policy that has rows in the step. A policy without a valid answer is bypassed, or its
    /// requests fail if it is enforcing.
    pub(crate) fn consult(&mut self, step: &mut Step, ticket: Ticket) {
        for policy in 0..self.samplers.len() {
            self.show(step, policy);
            if self.consultation.rows.is_empty() {
                continue;
            }
            let answer = self.ask_sampler(policy, ticket);
            self.consultation.finished[policy].clear();
            let Err(why) = answer else {
                self.branch_out(step);
                self.refuse();
                self.show_again(step);
                self.leave_undecided(step, policy);
                continue;
            };
            let all = (0..self.consultation.rows.len() as u32).collect();
            self.bypass(step, policy, all, why.to_string());
        }
    }

    /// Bypasses a policy for the rows that it has no decision for.
    fn leave_undecided(&mut self, step: &Step, policy: usize) {
        let mut rows = std::mem::take(&mut self.consultation.knobs.undecided);
        rows.append(&mut self.consultation.choices.undecided);
        if !rows.is_empty() {
            self.bypass(step, policy, rows, "it has no decision for some rows".to_owned());
        }
    }

    /// A policy that goes on without a decision for some rows may have lost what it knew of them.
    fn show_again(&mut self, step: &Step) {
        let mut rows = std::mem::take(&mut self.consultation.knobs.again);
        rows.append(&mut self.consultation.choices.again);
        self.stats.policy_fallbacks.sampler += u64::from(!rows.is_empty());
        self.forget_told(step, &rows);
    }

    fn forget_told(&mut self, step: &Step, rows: &[u32]) {
        for &row in rows {
            let nth = self.consultation.rows[row as usize];
            if let Some(sequence) = self.sequences.get(step.rows[nth as usize].sequence) {
                sequence.rest.told = 0;
            }
        }
    }

    /// The default for some rows of a policy; their requests fail if it is enforcing. A policy that failed
    /// may have lost what it knew: it is told of all their tokens again.
    fn bypass(&mut self, step: &Step, policy: usize, rows: Vec<u32>, why: String) {
        self.stats.policy_fallbacks.sampler += 1;
        self.forget_told(step, &rows);
        let Some(named) = self.samplers.get_mut(policy).filter(|named| named.enforcing) else { return };
        let failure = Failure::Policy { name: named.name.clone(), why };
        for row in rows {
            let request = self.consultation.slots[row as usize];
            self.fail(request, &failure);
        }
    }

    /// Fills the columns with the rows of one policy.
    fn show(&mut self, step: &Step, policy: usize) {
        let view = &mut self.consultation;
        view.clear();
        for (nth, row) in step.rows.iter().enumerate() {
            let Some(sequence) = self.sequences.get(row.sequence) else { continue };
            let index = sequence.rest.index as usize;
            let Some(live) = self.requests.peek(sequence.request) else { continue };
            if live.rest.sampler != Some(policy) || row.at < sequence.prompt {
                continue;
            }
            // Its newest token ends it, or there is none; that is not delivered yet.
            let newest = sequence.tokens.all()[sequence.prompt as usize..].last();
            let over = newest.is_some_and(|&token| live.stop.contains(token));
            if over || sequence.tokens.len() != row.at as usize {
                continue;
            }
            view.rows.push(nth as u32);
            view.ids.push(sequence.id);
            view.requests.push(live.rest.id.0);
            view.slots.push(sequence.request);
            view.positions.push(row.at);
            view.generated.push(row.at - sequence.prompt);
            view.remaining.push(sequence.limit - row.at);
            view.scores.push(sequence.score);
            // Not the number that the device would draw with.
            view.seeds.push(mix(row_seed(sequence.rest.seed, row.at), 1));
            let told = std::mem::replace(&mut sequence.rest.told, row.at) as usize;
            view.accepted.extend_from_slice(&sequence.tokens.all()[told..]);
            view.starts.push(view.accepted.len() as u32);
            view.tenants.push(self.sequences.tenant[index]);
            view.assumed.push(0);
        }
    }

    /// Applies a policy's answer; an error leaves the rows as they were.
    fn ask_sampler(&mut self, policy: usize, ticket: Ticket) -> Result<(), Error> {
        let Self { consultation, samplers, requests, model, sampling, limits, .. } = self;
        let Consultation { rows, knobs, choices, logprobs, .. } = consultation;
        let fields = Fields { requests, slots: &consultation.slots };
        let view = Columns {
            ids: &consultation.ids,
            requests: &consultation.requests,
            tenants: &consultation.tenants,
            positions: &consultation.positions,
            generated: &consultation.generated,
            remaining: &consultation.remaining,
            scores: &consultation.scores,
            seeds: &consultation.seeds,
            accepted: Ragged { starts: &consultation.starts, values: &consultation.accepted },
            assumed: Ragged { starts: &consultation.assumed, values: &[] },
            finished: &consultation.finished[policy],
            attributes: Some(&fields),
        };
        let Some(Named { sampler, .. }) = samplers.get_mut(policy) else { return Ok(()) };
        sampler.plan(&view, knobs)?;
        knobs.check(rows.len(), limits.vocab).inspect_err(|why| sampler.refused(why))?;
        if !knobs.inspect.is_empty() {
            let mut logits = Rows { model, ticket, rows, vocab: limits.vocab, known: Vec::new() };
            sampler.pick(&view, &mut logits, &knobs.inspect, choices)?;
            choices.check(&knobs.inspect, limits.vocab).inspect_err(|why| sampler.refused(why))?;
            forks::score(&mut logits, choices, logprobs)?;
        }
        sampling.turn(knobs, rows);
        for &(row, token) in choices.accept.iter().rev() {
            // The first token of a row continues it.
            sampling.force(rows[row as usize], token);
        }
        Ok(())
    }

    /// Fails the requests whose arguments the policy does not take.
    fn refuse(&mut self) {
        for (row, why) in std::mem::take(&mut self.consultation.knobs.refuse) {
            let request = self.consultation.slots[row as usize];
            self.fail(request, &Failure::Refused(why));
        }
    }

    /// A policy for new requests; whoever began with the one of its name keeps that.
    pub(crate) fn install(&mut self, named: Named) {
        let used: Vec<usize> =
            self.requests.live().iter().filter_map(|&slot| self.requests.peek(slot)?.rest.sampler).collect();
        self.samplers.reclaim(|place| used.contains(&place));
        let place = self.samplers.add(named);
        self.consultation.finished.resize(self.samplers.len(), Vec::new());
        self.consultation.finished[place].clear();
    }
}

impl Consultation {
    fn clear(&mut self) {
        self.rows.clear();
        self.ids.clear();
        self.requests.clear();
        self.slots.clear();
        self.tenants.clear();
        self.positions.clear();
        self.generated.clear();
        self.remaining.clear();
        self.scores.clear();
        self.seeds.clear();
        self.starts.clear();
        self.starts.push(0);
        self.accepted.clear();
        self.assumed.clear();
        self.assumed.push(0);
        self.knobs.clear();
        self.choices.clear();
        self.logprobs.clear();
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
        for run in knobs.bias.chunk_by(|one, next| one.0 == next.0) {
            self.add_bias(at(run[0].0), run.iter().map(|&(_, token, value)| (token, value)));
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

/// The rows of a view, as the device has them.
struct Rows<'a> {
    model: &'a mut Model,
    ticket: Ticket,
    rows: &'a [u32],
    vocab: u32,
    /// What the policy read: row, tokens, log-probabilities.
    known: Vec<(u32, Vec<u32>, Vec<f32>)>,
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
        let nth = self.row(row)?;
        let read = self.model.top_k(self.ticket, nth, k.min(self.vocab), &mut ids, &mut logprobs);
        read.map_err(|error| Error::Undecided(error.to_string()))?;
        self.known.push((row, ids.clone(), logprobs.clone()));
        Ok((ids, logprobs))
    }

    /// Most often the policy read them before.
    fn gather(&mut self, row: u32, tokens: &[u32]) -> Result<Vec<f32>, Error> {
        let find = |token: &u32| {
            let of_row = self.known.iter().filter(|known| known.0 == row);
            let place = |known: &(u32, Vec<u32>, Vec<f32>)| known.1.iter().position(|id| id == token);
            of_row.filter_map(|known| Some(known.2[place(known)?])).next()
        };
        if let Some(known) = tokens.iter().map(find).collect() {
            return Ok(known);
        }
        gather(self.read(row)?, tokens)
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
    fn attribute(&self, row: usize, key: &str) -> Option<&str> {
        self.requests.peek(*self.slots.get(row)?)?.attribute(key)
    }

    fn stop_tokens(&self, row: usize) -> Cow<'_, [u32]> {
        let live = self.slots.get(row).and_then(|&slot| self.requests.peek(slot));
        live.map_or(Cow::Borrowed(&[]), |live| live.stop.iter().collect::<Vec<_>>().into())
    }
}
