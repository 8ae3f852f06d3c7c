//! The stages of a model, and what travels between them.

use crate::ranks::{Group, lost};
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use tokenmill_backend_model::error::Error;

/// What all ranks of one model share.
pub struct Stages {
    pub groups: Vec<Group>,
    /// By the rank that receives: only one ever sends to it.
    pub rows: Vec<Mail<f32>>,
    pub tokens: Vec<Mail<i32>>,
}

impl Stages {
    /// `tensor_parallel` divides `ranks`.
    pub fn new(ranks: usize, tensor_parallel: usize) -> Stages {
        Stages {
            groups: (0..ranks / tensor_parallel).map(|_| Group::new(tensor_parallel)).collect(),
            rows: (0..ranks).map(|_| Mail::default()).collect(),
            tokens: (0..ranks).map(|_| Mail::default()).collect(),
        }
    }

    pub fn ranks(&self) -> usize {
        self.rows.len()
    }

    /// Every rank that waits, now or later, gets `Error::Lost`.
    pub fn abort(&self) {
        self.groups.iter().for_each(Group::abort);
        self.rows.iter().for_each(Mail::abort);
        self.tokens.iter().for_each(Mail::abort);
    }
}

/// Values in the order they were sent. A sender never waits.
pub struct Mail<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    sent: VecDeque<Vec<T>>,
    /// Emptied, to be filled again.
    spare: Vec<Vec<T>>,
    aborted: bool,
}

impl<T> Default for Mail<T> {
    fn default() -> Self {
        let state = State { sent: VecDeque::new(), spare: Vec::new(), aborted: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }
}

impl<T: Copy> Mail<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn abort(&self) {
        self.lock().aborted = true;
        self.changed.notify_all();
    }

    pub fn send(&self, values: &[T]) {
        let mut state = self.lock();
        let mut letter = state.spare.pop().unwrap_or_default();
        letter.extend_from_slice(values);
        state.sent.push_back(letter);
        self.changed.notify_all();
    }

    /// Waits for as many values as `out` has.
    pub fn receive(&self, out: &mut [T]) -> Result<(), Error> {
        let mut state = self.lock();
        loop {
            if state.aborted {
                return Err(lost());
            }
            if let Some(mut letter) = state.sent.pop_front() {
                out.copy_from_slice(&letter);
                letter.clear();
                state.spare.push(letter);
                return Ok(());
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
