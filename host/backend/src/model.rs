//! A loaded model and its tickets.

use std::mem::size_of;
use std::time::Duration;

use tokenmill_backend_abi as abi;

use crate::{Batch, Error, Info, Sampling};

/// A submitted step; rises by one with each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

#[derive(PartialEq, Eq, Debug, Clone, Copy)]
pub enum Waited {
    Done,
    TimedOut,
}

/// A model of one backend; dropping it waits for queued work and unloads it.
///
/// After `Error::Lost` every call gives `Lost` without asking the backend again.
pub struct Model {
    api: &'static abi::Api,
    handle: *mut abi::Model,
    info: Info,
    /// Tickets submitted and not released.
    alive: Vec<Alive>,
    lost: bool,
    message: abi::Message,
    copies: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Alive {
    ticket: u64,
    n_rows: u32,
    sampled: bool,
}

// SAFETY: [M] calls may come from any thread, one at a time; `&mut self` and no `Sync` see to the latter.
unsafe impl Send for Model {}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: the handle came from load and this is its last use.
        unsafe { (self.api.unload)(self.handle) }
    }
}

impl Model {
    /// Takes a handle that `load` returned; `info` asks about it.
    pub(crate) fn new(
        api: &'static abi::Api,
        handle: *mut abi::Model,
        info: impl FnOnce(*const abi::Model) -> Result<Info, Error>,
    ) -> Result<Self, Error> {
        let info = info(handle).inspect_err(|_| {
            // SAFETY: the handle came from load and nobody else has it.
            unsafe { (api.unload)(handle) }
        })?;
        let alive = Vec::with_capacity(info.depth as usize);
        Ok(Self {
            api,
            handle,
            info,
            alive,
            lost: false,
            message: abi::Message::default(),
            copies: Vec::new(),
        })
    }

    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Queues the forward pass of a step. Does not block and keeps nothing of `batch`.
    pub fn submit(&mut self, batch: &Batch<'_>) -> Result<Ticket, Error> {
        self.usable("submit")?;
        let raw = batch.to_abi(&mut self.copies).map_err(|error| prefix("submit", error))?;
        let mut ticket = 0;
        // SAFETY: the batch and everything it points to outlives the call; lengths are checked.
        let code =
            unsafe { (self.api.submit)(self.handle, &raw const raw, &raw mut ticket, &raw mut self.message) };
        self.check("submit", code)?;
        if ticket == 0 || self.alive.last().is_some_and(|last| last.ticket >= ticket) {
            return Err(Error::Internal(format!("submit: ticket {ticket} does not rise")));
        }
        self.alive.push(Alive { ticket, n_rows: raw.n_rows, sampled: false });
        Ok(Ticket(ticket))
    }

    /// Queues sampling of the newest ticket, once. Does not block and keeps nothing of `sampling`.
    pub fn sample(&mut self, ticket: Ticket, sampling: &Sampling<'_>) -> Result<(), Error> {
        let index = self.find("sample", ticket)?;
        let raw = sampling
            .to_abi(self.alive[index].n_rows, self.info.vocab)
            .map_err(|error| prefix("sample", error))?;
        // SAFETY: the columns outlive the call; lengths are checked.
        let code = unsafe { (self.api.sample)(self.handle, ticket.0, &raw const raw, &raw mut self.message) };
        self.check("sample", code)?;
        self.alive[index].sampled = true;
        Ok(())
    }

    /// Waits until the queued work of a ticket is done, for at most `timeout` (`Duration::MAX`: for ever).
    ///
    /// On `Done` both columns have one entry per row: the sampled token, -1 where the row had no finite logit, and
    /// its log-softmax of the raw logits. They are empty if the step was not sampled, and on `TimedOut`. An error
    /// is the step's own, if it failed on the device; the ticket is alive until it is released all the same.
    pub fn wait(
        &mut self,
        ticket: Ticket,
        timeout: Duration,
        tokens: &mut Vec<i32>,
        logprobs: &mut Vec<f32>,
    ) -> Result<Waited, Error> {
        tokens.clear();
        logprobs.clear();
        let index = self.find("wait", ticket)?;
        let Alive { n_rows, sampled, .. } = self.alive[index];
        tokens.resize(n_rows as usize, -1);
        logprobs.resize(n_rows as usize, f32::NAN);
        let mut raw = abi::Outcome {
            size: size_of::<abi::Outcome>(),
            tokens: tokens.as_mut_ptr(),
            logprobs: logprobs.as_mut_ptr(),
            capacity: n_rows,
            n_rows: 0,
        };
        let ns = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        // SAFETY: both columns have `capacity` entries.
        let code = unsafe { (self.api.wait)(self.handle, ticket.0, ns, &raw mut raw, &raw mut self.message) };
        let waited = match code {
            abi::TIMEOUT => Ok(Waited::TimedOut),
            code => self.check("wait", code).map(|()| Waited::Done),
        };
        if !matches!(waited, Ok(Waited::Done)) || !sampled {
            tokens.clear();
            logprobs.clear();
        }
        if let Ok(Waited::Done) = waited {
            check_rows(raw.n_rows, tokens, self.info.vocab)?;
        }
        waited
    }

    /// The `k` largest log-probabilities of the raw logits of a row, falling, lower id first on a tie. Waits for the
    /// forward pass.
    pub fn top_k(
        &mut self,
        ticket: Ticket,
        row: u32,
        k: u32,
        ids: &mut Vec<u32>,
        logprobs: &mut Vec<f32>,
    ) -> Result<(), Error> {
        ids.clear();
        logprobs.clear();
        self.find("topk", ticket)?;
        if k > self.info.vocab {
            return Err(Error::Invalid(format!(
                "topk: k = {k}, the vocabulary has {} tokens",
                self.info.vocab
            )));
        }
        ids.resize(k as usize, u32::MAX);
        logprobs.resize(k as usize, f32::NAN);
        // SAFETY: both columns have k entries.
        let code = unsafe {
            let (ids, logprobs) = (ids.as_mut_ptr(), logprobs.as_mut_ptr());
            (self.api.topk)(self.handle, ticket.0, row, k, ids, logprobs, &raw mut self.message)
        };
        self.check("topk", code)?;
        match ids.iter().find(|&&id| id >= self.info.vocab) {
            Some(id) => Err(Error::Internal(format!("topk: token {id} of {}", self.info.vocab))),
            None => Ok(()),
        }
    }

    /// The raw logits of a row, vocab floats. Waits for the forward pass.
    pub fn logits(&mut self, ticket: Ticket, row: u32) -> Result<&[f32], Error> {
        self.find("logits", ticket)?;
        let mut logits = std::ptr::null();
        // SAFETY: the handle is loaded and the ticket alive.
        let code =
            unsafe { (self.api.logits)(self.handle, ticket.0, row, &raw mut logits, &raw mut self.message) };
        self.check("logits", code)?;
        if logits.is_null() || !logits.is_aligned() {
            return Err(Error::Internal("logits: no pointer to floats".to_owned()));
        }
        // SAFETY: vocab floats that stay until the ticket is released, which needs `&mut self`.
        Ok(unsafe { std::slice::from_raw_parts(logits, self.info.vocab as usize) })
    }

    /// Ends a ticket, which may still be running. Unknown tickets are ignored.
    pub fn release(&mut self, ticket: Ticket) {
        self.alive.retain(|alive| alive.ticket != ticket.0);
        if !self.lost {
            // SAFETY: the handle is loaded; unknown tickets are ignored by contract.
            unsafe { (self.api.release)(self.handle, ticket.0) }
        }
    }

    fn usable(&mut self, call: &str) -> Result<(), Error> {
        self.message.text[0] = 0;
        if self.lost {
            return Err(Error::Lost(format!("{call}: the device was lost before")));
        }
        Ok(())
    }

    /// Where an alive ticket stands.
    fn find(&mut self, call: &str, ticket: Ticket) -> Result<usize, Error> {
        self.usable(call)?;
        self.alive
            .iter()
            .position(|alive| alive.ticket == ticket.0)
            .ok_or_else(|| Error::Invalid(format!("{call}: ticket {} is not alive", ticket.0)))
    }

    fn check(&mut self, call: &str, code: abi::Code) -> Result<(), Error> {
        if code == abi::OK {
            return Ok(());
        }
        self.lost |= code == abi::LOST;
        Err(Error::from_code(call, code, &self.message))
    }
}

/// What a sampled step returned.
fn check_rows(n_rows: u32, tokens: &[i32], vocab: u32) -> Result<(), Error> {
    if n_rows as usize != tokens.len() {
        return Err(Error::Internal(format!("wait: {n_rows} rows of {}", tokens.len())));
    }
    match tokens.iter().position(|&token| token < -1 || token >= vocab as i32) {
        Some(row) => {
            Err(Error::Internal(format!("wait: row {row} sampled token {} of {vocab}", tokens[row])))
        }
        None => Ok(()),
    }
}

fn prefix(call: &str, error: Error) -> Error {
    match error {
        Error::Invalid(text) => Error::Invalid(format!("{call}: {text}")),
        other => other,
    }
}
