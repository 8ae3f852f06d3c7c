//! A loaded model: tickets, their results, and when they are done.

use std::collections::BTreeMap;
use std::time::Instant;

use tokenmill_backend_abi as abi;

use crate::kv::{Kv, mix};
use crate::sampler::Sampler;
use crate::validate::{Columns, Limits, Parameters};
use crate::vocab::{Logits, Vocab};
use crate::{Fault, Options, invalid};

/// Everything behind one `tm_model`, used under a lock.
///
/// Results are computed when they are asked for, so "running" is only a time: a step is done `step_us` after the later
/// of its submission and the end of the step before.
pub(crate) struct Model {
    options: Options,
    limits: Limits,
    vocab: Vocab,
    kv: Kv,
    sampler: Sampler,
    /// Alive tickets, oldest first.
    steps: Vec<Step>,
    /// Steps that ended, for their memory.
    spare: Vec<Step>,
    /// The newest ticket ever submitted.
    newest: abi::Ticket,
    /// What the newest ticket sampled, once it is released: the next step may still refer to it.
    released: Vec<i32>,
    /// When the newest step is done.
    done: Instant,
    lost: bool,
    tokens: Vec<u32>,
    hashes: Vec<u64>,
}

#[derive(Default)]
struct Step {
    ticket: abi::Ticket,
    rows: Vec<Logits>,
    sampled: bool,
    tokens: Vec<i32>,
    logprobs: Vec<f32>,
    fault: Option<Fault>,
    done: Option<Instant>,
    /// Rows that were lent; their addresses stay until release.
    lent: BTreeMap<u32, Box<[f32]>>,
}

impl Model {
    pub(crate) fn new(options: Options, limits: Limits) -> Self {
        Self {
            vocab: Vocab::new(limits.vocab),
            kv: Kv::new(limits.n_blocks, limits.block_tokens),
            sampler: Sampler::default(),
            steps: Vec::with_capacity(limits.depth as usize),
            spare: (0..limits.depth).map(|_| Step::default()).collect(),
            newest: 0,
            released: Vec::new(),
            done: Instant::now(),
            lost: false,
            tokens: Vec::new(),
            hashes: Vec::new(),
            options,
            limits,
        }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn submit(&mut self, batch: &Columns<'_>) -> Result<abi::Ticket, Fault> {
        self.usable()?;
        batch.check(&self.limits)?;
        self.kv.check_writes(batch)?;
        self.resolve(batch.tokens)?;
        let Some(mut step) = self.spare.pop() else {
            let text = format!("{} tickets are alive", self.limits.depth);
            return Err(Fault { code: abi::AGAIN, text });
        };
        self.newest += 1;
        step.ticket = self.newest;
        step.sampled = false;
        self.kv.copy(batch.copies);
        let checked = self.kv.step(batch, &self.tokens, self.options.check, &mut self.hashes);
        step.fault = checked.err().or_else(|| self.injected());
        step.rows.clear();
        step.rows
            .extend(batch.rows.iter().enumerate().map(|(row, &index)| self.row(batch, row as u32, index)));
        step.done = (!self.options.step.is_zero()).then(|| {
            self.done = self.done.max(Instant::now()) + self.options.step;
            self.done
        });
        self.steps.push(step);
        self.released.clear();
        Ok(self.newest)
    }

    pub(crate) fn sample(&mut self, ticket: abi::Ticket, all: &Parameters<'_>) -> Result<(), Fault> {
        self.usable()?;
        all.check(self.limits.vocab)?;
        let newest = self.newest;
        let step = match self.steps.last_mut() {
            Some(step) if step.ticket == ticket && ticket == newest => step,
            _ => return Err(invalid(format!("ticket {ticket} is not the newest, {newest}"))),
        };
        if step.sampled {
            return Err(invalid(format!("ticket {ticket} is sampled already")));
        }
        if all.rows.len() != step.rows.len() {
            return Err(invalid(format!(
                "rows has {} entries, the step has {}",
                all.rows.len(),
                step.rows.len()
            )));
        }
        step.sampled = true;
        step.tokens.clear();
        step.logprobs.clear();
        for (&logits, row) in step.rows.iter().zip(all.rows) {
            let (token, logprob) = self.sampler.sample(&self.vocab, logits, row, all);
            step.tokens.push(token);
            step.logprobs.push(logprob);
        }
        Ok(())
    }

    /// How many rows a step has.
    pub(crate) fn rows(&self, ticket: abi::Ticket) -> Result<u32, Fault> {
        self.usable()?;
        Ok(self.find(ticket)?.rows.len() as u32)
    }

    /// When the ticket is done; `None` is at once.
    pub(crate) fn done(&self, ticket: abi::Ticket) -> Result<Option<Instant>, Fault> {
        self.usable()?;
        Ok(self.find(ticket)?.done)
    }

    /// The sampled tokens and log-probabilities of a step that is done; empty if it was not sampled.
    pub(crate) fn results(&mut self, ticket: abi::Ticket) -> Result<(&[i32], &[f32]), Fault> {
        self.forward(ticket)?;
        let step = self.find(ticket)?;
        match step.sampled {
            true => Ok((&step.tokens, &step.logprobs)),
            false => Ok((&[], &[])),
        }
    }

    /// The token with the nth largest logit, and its log-probability.
    pub(crate) fn nth(&self, logits: Logits, nth: u32) -> (u32, f32) {
        let token = self.vocab.nth(logits, nth);
        (token, self.vocab.logprob(logits, token))
    }

    /// The address stays valid until the ticket is released.
    pub(crate) fn logits(&mut self, ticket: abi::Ticket, row: u32) -> Result<*const f32, Fault> {
        let logits = self.row_logits(ticket, row)?;
        let vocab = &self.vocab;
        let Some(step) = self.steps.iter_mut().find(|step| step.ticket == ticket) else {
            return unknown(ticket);
        };
        let lent = step.lent.entry(row).or_insert_with(|| {
            let mut all = Vec::new();
            vocab.write(logits, &mut all);
            all.into_boxed_slice()
        });
        Ok(lent.as_ptr())
    }

    pub(crate) fn release(&mut self, ticket: abi::Ticket) {
        if let Some(index) = self.steps.iter().position(|step| step.ticket == ticket) {
            let mut step = self.steps.remove(index);
            step.lent.clear();
            if ticket == self.newest && step.sampled {
                std::mem::swap(&mut self.released, &mut step.tokens);
            }
            self.spare.push(step);
        }
    }

    fn usable(&self) -> Result<(), Fault> {
        if self.lost {
            return Err(Fault { code: abi::LOST, text: "the device was lost".to_owned() });
        }
        Ok(())
    }

    fn find(&self, ticket: abi::Ticket) -> Result<&Step, Fault> {
        self.steps.iter().find(|step| step.ticket == ticket).map_or_else(|| unknown(ticket), Ok)
    }

    /// The fault of a step, which may be the end of the device.
    fn forward(&mut self, ticket: abi::Ticket) -> Result<(), Fault> {
        self.usable()?;
        match &self.find(ticket)?.fault {
            None => Ok(()),
            Some(fault) => {
                let fault = fault.clone();
                self.lost |= fault.code == abi::LOST;
                Err(fault)
            }
        }
    }

    /// Fails as the step did.
    pub(crate) fn row_logits(&mut self, ticket: abi::Ticket, row: u32) -> Result<Logits, Fault> {
        self.forward(ticket)?;
        let rows = &self.find(ticket)?.rows;
        rows.get(row as usize)
            .copied()
            .ok_or_else(|| invalid(format!("row {row}: the step has {} rows", rows.len())))
    }

    /// Token ids of the batch, with references to the step before replaced.
    fn resolve(&mut self, tokens: &[i32]) -> Result<(), Fault> {
        self.tokens.clear();
        let previous = match self.steps.last() {
            Some(step) if step.ticket == self.newest && step.sampled => &step.tokens,
            _ => &self.released,
        };
        for (i, &token) in tokens.iter().enumerate() {
            let id = if token >= 0 {
                token
            } else {
                let row = -1 - i64::from(token);
                let sampled = previous.get(row as usize);
                // A row that sampled -1 counts as token 0: the host drops what follows from it.
                sampled.map(|&token| token.max(0)).ok_or_else(|| {
                    invalid(format!("tokens[{i}]: the step before has no sampled row {row}"))
                })?
            };
            if id as u32 >= self.limits.vocab {
                return Err(invalid(format!(
                    "tokens[{i}] = {id}, the vocabulary has {} tokens",
                    self.limits.vocab
                )));
            }
            self.tokens.push(id as u32);
        }
        Ok(())
    }

    fn injected(&self) -> Option<Fault> {
        let &(step, code) = self.options.fail_step.iter().find(|(step, _)| *step == self.newest)?;
        Some(Fault { code, text: format!("step {step} fails because fail_step says so") })
    }

    /// The logits of a row whose token is `tokens[index]`.
    fn row(&self, batch: &Columns<'_>, row: u32, index: u32) -> Logits {
        if self.options.nan_row.contains(&(self.newest, row)) {
            return Logits::NotANumber;
        }
        // A fault in the KV may have ended the step early.
        let hash = self.hashes.get(index as usize).copied().unwrap_or(0);
        self.vocab.favouring(self.favourite(batch, hash, index))
    }

    fn favourite(&self, batch: &Columns<'_>, hash: u64, index: u32) -> u32 {
        let vocab = self.limits.vocab;
        if !self.options.script.is_empty() {
            let sequence = batch.seq_start.partition_point(|&start| start <= index) - 1;
            let position = batch.seq_pos[sequence] + (index - batch.seq_start[sequence]);
            let next = (position as usize + 1) % self.options.script.len();
            return self.options.script[next];
        }
        // The upper half of the product: as even as a remainder, without the division.
        let token = (((mix(hash, 0) >> 32) * u64::from(vocab)) >> 32) as u32;
        match self.options.eos {
            Some((eos, period)) if mix(hash, 1).is_multiple_of(period) => eos,
            Some((eos, _)) if token == eos => (eos + 1) % vocab,
            _ => token,
        }
    }
}

fn unknown<T>(ticket: abi::Ticket) -> Result<T, Fault> {
    Err(invalid(format!("ticket {ticket} is not alive")))
}
