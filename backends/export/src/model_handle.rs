//! A loaded model as its callers see it: checks arguments, queues work for the ranks, reads results.

use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokenmill_backend_abi as abi;
use tokenmill_backend_model::check::{Checker, Limits};
use tokenmill_backend_model::device::Step;

use crate::fault::Fault;
use crate::job::{Pool, SampleJob, Sampling, StepJob};
use crate::load::Crew;
use crate::queue::{Job, TopK};
use crate::rank::Shared;

/// What `tm_model` points to.
pub(crate) struct Model {
    crew: Crew,
    pub(crate) limits: Limits,
    pub(crate) description: Description,
    /// What [M] calls change; they come one at a time.
    steps: Mutex<Steps>,
    lent: Mutex<Lent>,
}

/// What `info` says beside the limits.
pub(crate) struct Description {
    pub(crate) depth: usize,
    pub(crate) weight_bytes: u64,
    pub(crate) kv_block_bytes: u64,
    pub(crate) arch: &'static str,
    pub(crate) device: String,
    pub(crate) weights: &'static str,
}

struct Steps {
    checker: Checker,
    step_jobs: Pool<StepJob>,
    sample_jobs: Pool<SampleJob>,
    newest: Newest,
    /// Scratch.
    copies: Vec<(u32, u32)>,
}

/// The newest ticket; 0 before the first.
#[derive(Clone, Copy, Default)]
struct Newest {
    ticket: u64,
    slot: usize,
    rows: usize,
    sampled: bool,
}

/// Rows of logits in the hands of callers, and buffers to lend again.
#[derive(Default)]
struct Lent {
    rows: Vec<(u64, u32, Box<[f32]>)>,
    spare: Vec<Box<[f32]>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Model {
    pub(crate) fn new(crew: Crew, checker: Checker, description: Description) -> Self {
        let limits = checker.limits;
        let steps = Steps {
            checker,
            step_jobs: Pool::default(),
            sample_jobs: Pool::default(),
            newest: Newest::default(),
            copies: Vec::new(),
        };
        Self { crew, limits, description, steps: Mutex::new(steps), lent: Mutex::default() }
    }

    fn shared(&self) -> &Shared {
        &self.crew.shared
    }

    fn push(&self, job: impl Fn() -> Job) {
        self.shared().queues.iter().for_each(|queue| queue.push(job()));
    }

    /// `copies` are pairs, flat: they take the place of those of `step`.
    pub(crate) fn submit(&self, step: &Step<'_>, copies: &[u32]) -> Result<u64, Fault> {
        let steps = &mut *lock(&self.steps);
        self.shared().tickets.check_lost()?;
        steps.copies.clear();
        steps.copies.extend(copies.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        let step = &Step { copies: &steps.copies, ..*step };
        let sampled = Some(steps.newest).filter(|newest| newest.sampled);
        steps.checker.step(step, sampled.map(|newest| newest.rows))?;
        let slot = self.shared().tickets.free_slot()?;
        let ticket = steps.newest.ticket + 1;
        let job = steps.step_jobs.take(|job| {
            (job.ticket, job.slot, job.previous) = (ticket, slot, sampled.map(|newest| newest.slot));
            job.copy(step);
        });
        self.shared().tickets.begin(slot, ticket, step.rows.len());
        self.push(|| Job::Step(job.clone()));
        steps.newest = Newest { ticket, slot, rows: step.rows.len(), sampled: false };
        Ok(ticket)
    }

    /// The rows of `ticket`, if it may be sampled.
    pub(crate) fn rows_to_sample(&self, ticket: u64) -> Result<usize, Fault> {
        self.shared().tickets.check_lost()?;
        self.shared().tickets.check_alive(ticket)?;
        let newest = lock(&self.steps).newest;
        match newest {
            newest if newest.ticket != ticket => {
                Err(Fault::invalid(format!("ticket {ticket} is not the newest, {}", newest.ticket)))
            }
            Newest { sampled: true, .. } => {
                Err(Fault::invalid(format!("ticket {ticket} is sampled already")))
            }
            Newest { rows, .. } => Ok(rows),
        }
    }

    /// `sampling` has the rows that `rows_to_sample` says.
    pub(crate) fn sample(&self, ticket: u64, sampling: &Sampling<'_>) -> Result<(), Fault> {
        let steps = &mut *lock(&self.steps);
        for index in 0..sampling.rows.len() {
            let row = sampling.row(index);
            let row =
                row.map_err(|field| Fault::invalid(format!("rows[{index}].{field} is out of range")))?;
            steps.checker.row(index, &row)?;
        }
        let slot = steps.newest.slot;
        let job = steps.sample_jobs.take(|job| {
            (job.ticket, job.slot) = (ticket, slot);
            job.copy(sampling);
        });
        self.shared().tickets.ask_sample(ticket);
        self.push(|| Job::Sample(job.clone()));
        steps.newest.sampled = true;
        Ok(())
    }

    /// Waits, then hands tokens and log-probabilities to `take`: none if the step was not sampled.
    pub(crate) fn wait(
        &self,
        ticket: u64,
        ns: u64,
        take: impl FnOnce(&[i32], &[f32]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.shared().tickets.wait(ticket, ns, take)
    }

    pub(crate) fn top_k(&self, ticket: u64, row: u32, k: u32) -> Result<TopK, Fault> {
        if k as usize > self.limits.vocab {
            return Err(Fault::invalid(format!("k = {k}: the vocabulary has {}", self.limits.vocab)));
        }
        let (reply, answer) = sync_channel(1);
        self.shared().tickets.read(ticket, row, |slot| {
            let (row, k) = (row as usize, k as usize);
            self.ask(Job::TopK { slot, row, k, reply });
        })?;
        answer.recv().unwrap_or_else(|_| self.gone())
    }

    /// The pointer stays good until the ticket is released.
    pub(crate) fn logits(&self, ticket: u64, row: u32) -> Result<*const f32, Fault> {
        let mut lent = lock(&self.lent);
        if let Some((.., logits)) = lent.rows.iter().find(|(t, r, _)| (*t, *r) == (ticket, row)) {
            return Ok(logits.as_ptr());
        }
        let out = lent.spare.pop().unwrap_or_else(|| vec![0.0; self.limits.vocab].into());
        let (reply, answer) = sync_channel(1);
        self.shared().tickets.read(ticket, row, |slot| {
            self.ask(Job::Row { slot, row: row as usize, out, reply });
        })?;
        let logits = answer.recv().unwrap_or_else(|_| self.gone())?;
        let pointer = logits.as_ptr();
        lent.rows.push((ticket, row, logits));
        Ok(pointer)
    }

    fn ask(&self, job: Job) {
        if let Some(queue) = self.shared().queues.get(self.shared().speaker) {
            queue.push(job);
        }
    }

    /// A rank dropped its work.
    fn gone<T>(&self) -> Result<T, Fault> {
        self.shared().tickets.check_lost()?;
        Err(Fault::new(abi::INTERNAL, "a rank ended without a word"))
    }

    pub(crate) fn release(&self, ticket: u64) {
        self.shared().tickets.release(ticket);
        let lent = &mut *lock(&self.lent);
        let returned = lent.rows.extract_if(.., |(of, ..)| *of == ticket);
        lent.spare.extend(returned.map(|(.., logits)| logits));
    }
}
