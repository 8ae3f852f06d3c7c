//! Instances made ahead of need: `configure` may take a second, which no step should wait for.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::Error;
use crate::error::{Failure, Reason};
use crate::instance::{Instance, Recipe};

/// Configured instances that wait for a tenant.
const SPARE: usize = 1;

/// A stock that a thread keeps filled until it is dropped.
pub(crate) struct Stock(Arc<Shelf>);

struct Shelf {
    line: Mutex<Line>,
    changed: Condvar,
}

#[derive(Default)]
struct Line {
    ready: VecDeque<Result<Instance, Failure>>,
    closed: bool,
}

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stock {
    pub(crate) fn open(recipe: Arc<Recipe>, first: Instance) -> Result<Self, Error> {
        let line = Line { ready: VecDeque::from([Ok(first)]), closed: false };
        let shelf = Arc::new(Shelf { line: Mutex::new(line), changed: Condvar::new() });
        let filled = shelf.clone();
        let started =
            thread::Builder::new().name("policy-stock".into()).spawn(move || fill(&filled, &recipe));
        started.map(|_| Self(shelf)).map_err(|error| Error::Host(error.to_string()))
    }

    /// A fresh instance; waits at most so long for one to be ready.
    pub(crate) fn take(&self, patience: Duration) -> Result<Instance, Failure> {
        let until = Instant::now() + patience;
        let mut line = self.0.lock();
        loop {
            if let Some(made) = line.ready.pop_front() {
                self.0.changed.notify_all();
                return made;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::new(Reason::Instantiate, "an instance is still being configured"));
            }
            let waited = self.0.changed.wait_timeout(line, left);
            line = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

fn fill(shelf: &Shelf, recipe: &Recipe) {
    loop {
        let mut line = shelf.lock();
        while line.ready.len() >= SPARE && !line.closed {
            line = shelf.changed.wait(line).unwrap_or_else(PoisonError::into_inner);
        }
        if line.closed {
            return;
        }
        drop(line);
        let made = recipe.make().map_err(|error| match error {
            Error::Failed { reason, detail } => Failure { reason, detail },
            other => Failure::new(Reason::Instantiate, other.to_string()),
        });
        shelf.lock().ready.push_back(made);
        shelf.changed.notify_all();
    }
}
