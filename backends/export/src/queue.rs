//! Work for the thread of one rank, in order.

use std::collections::VecDeque;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::fault::Fault;
use crate::job::{SampleJob, StepJob};

pub(crate) enum Job {
    Step(Arc<StepJob>),
    Sample(Arc<SampleJob>),
    /// For the speaker only.
    TopK {
        slot: usize,
        row: usize,
        k: usize,
        reply: SyncSender<Result<TopK, Fault>>,
    },
    /// For the speaker only. The buffer comes back filled.
    Row {
        slot: usize,
        row: usize,
        out: Box<[f32]>,
        reply: SyncSender<Result<Box<[f32]>, Fault>>,
    },
}

/// Ids and log-probabilities, falling.
pub(crate) type TopK = (Vec<u32>, Vec<f32>);

#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    ready: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl Queue {
    /// A job for a closed queue is dropped: nobody will do it.
    pub(crate) fn push(&self, job: Job) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.closed {
            state.jobs.push_back(job);
            self.ready.notify_one();
        }
    }

    /// Waits for a job; `None` once the queue is closed and empty.
    pub(crate) fn pop(&self) -> Option<Job> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// No job comes after this; those queued are still done.
    pub(crate) fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.ready.notify_all();
    }

    /// Closes the queue and drops what is in it, so that nobody waits for an answer.
    pub(crate) fn abandon(&self) {
        self.close();
        self.state.lock().unwrap_or_else(PoisonError::into_inner).jobs.clear();
    }
}
