//! The thread of one rank: takes jobs, drives its decoder, reports.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use tokenmill_backend_model::decoder::Decoder;
use tokenmill_backend_model::device::{Device, RowSampling};
use tokenmill_backend_model::error::Error;

use crate::fault::Fault;
use crate::job::{SampleJob, StepJob};
use crate::queue::{Job, Queue};
use crate::tickets::Tickets;

/// What the ranks of a model share with its callers.
pub(crate) struct Shared {
    pub(crate) queues: Vec<Queue>,
    /// The rank that has logits and samples, and answers for all.
    pub(crate) speaker: usize,
    pub(crate) tickets: Tickets,
    /// See `Ranks::abort`.
    pub(crate) abort: Box<dyn Fn() + Send + Sync>,
}

impl Shared {
    fn lose(&self, ticket: Option<u64>, fault: Fault) {
        // First the reason, then the waking: ranks that wake report less.
        self.tickets.failed(ticket, fault);
        (self.abort)();
    }
}

/// Whatever ends the thread, nobody waits for it afterwards.
struct Ending<'a> {
    queue: &'a Queue,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.queue.abandon();
    }
}

struct Worker<'a, D: Device> {
    decoder: Decoder<D>,
    rank: usize,
    shared: &'a Arc<Shared>,
    rows: Vec<RowSampling<'static>>,
}

/// Runs until the queue is closed or the device is lost.
pub(crate) fn run<D: Device>(decoder: Decoder<D>, rank: usize, shared: &Arc<Shared>, max_rows: usize) {
    let queue = &shared.queues[rank];
    let _ending = Ending { queue };
    let mut worker = Worker { decoder, rank, shared, rows: Vec::with_capacity(max_rows) };
    while let Some(job) = queue.pop() {
        if !worker.guarded(job) {
            break;
        }
    }
}

impl<D: Device> Worker<'_, D> {
    fn speaks(&self) -> bool {
        self.rank == self.shared.speaker
    }

    /// Whether the device is still there.
    fn guarded(&mut self, job: Job) -> bool {
        let ticket = match &job {
            Job::Step(step) => Some(step.ticket),
            Job::Sample(sample) => Some(sample.ticket),
            Job::TopK { .. } | Job::Row { .. } => None,
        };
        match catch_unwind(AssertUnwindSafe(|| self.job(job))) {
            Ok(Ok(())) => true,
            // A failed read harms nobody. A failed step leaves a cache that is half written, and ranks
            // that wait for this one.
            Ok(Err(error)) if ticket.is_none() && !matches!(error, Error::Lost(_)) => true,
            Ok(Err(error)) => {
                self.shared.lose(ticket, error.into());
                false
            }
            Err(panic) => {
                self.shared.lose(ticket, Fault::panic(&*panic));
                false
            }
        }
    }

    fn job(&mut self, job: Job) -> Result<(), Error> {
        match job {
            Job::Step(step) => self.step(&step),
            Job::Sample(sample) => self.sample(&sample),
            Job::TopK { slot, row, k, reply } => {
                let (mut ids, mut logprobs) = (vec![0; k], vec![0.0; k]);
                let done = self.decoder.top_k(slot, row, &mut ids, &mut logprobs);
                answer(&reply, done, (ids, logprobs))
            }
            Job::Row { slot, row, mut out, reply } => {
                let done = self.decoder.row(slot, row, &mut out);
                answer(&reply, done, out)
            }
        }
    }

    fn step(&mut self, job: &StepJob) -> Result<(), Error> {
        self.decoder.forward(&job.step(), job.slot, job.previous)?;
        let (shared, ticket, speaks) = (self.shared.clone(), job.ticket, self.speaks());
        // Of every rank: where others wait for this one, only its own fault tells why.
        self.decoder.finished(move |done| match done {
            Ok(()) if speaks => shared.tickets.computed(ticket),
            Ok(()) => {}
            Err(error) => shared.lose(Some(ticket), error.into()),
        })
    }

    fn sample(&mut self, job: &SampleJob) -> Result<(), Error> {
        let sampling = job.sampling();
        let mut rows = reused(std::mem::take(&mut self.rows));
        for index in 0..sampling.rows.len() {
            let row = sampling.row(index);
            rows.push(row.map_err(|field| Error::Invalid(format!("rows[{index}].{field} is out of range")))?);
        }
        let done = self.decoder.sample(&rows, job.slot);
        self.rows = reused(rows);
        done?;
        if !self.speaks() {
            return Ok(());
        }
        let (shared, ticket) = (self.shared.clone(), job.ticket);
        self.decoder.fetch(job.slot, move |sampled| match sampled {
            Ok((tokens, logprobs)) => shared.tickets.sampled(ticket, tokens, logprobs),
            Err(error) => shared.lose(Some(ticket), error.into()),
        })
    }
}

/// The same allocation for rows that borrow something else: the collection happens in place.
fn reused<'to>(mut rows: Vec<RowSampling<'_>>) -> Vec<RowSampling<'to>> {
    rows.clear();
    let unborrow = |row: RowSampling<'_>| RowSampling {
        bias_token: &[],
        bias_value: &[],
        seen_token: &[],
        seen_count: &[],
        mask: &[],
        ..row
    };
    rows.into_iter().map(unborrow).collect()
}

/// Tells the caller; the error also goes on to the rank.
fn answer<T>(reply: &SyncSender<Result<T, Fault>>, done: Result<(), Error>, value: T) -> Result<(), Error> {
    let told = done.clone().map(|()| value).map_err(Fault::from);
    // The caller may be gone; then nobody needs the answer.
    let _ = reply.send(told);
    done
}
