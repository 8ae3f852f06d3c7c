//! Where fresh instances come from. Most are made when they are needed, in microseconds; where `configure`
//! takes longer than a step may wait, a thread keeps one ready.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::Error;
use crate::error::{Failure, Reason};
use crate::instance::{Instance, Recipe};

pub(crate) struct Stock {
    recipe: Arc<Recipe>,
    shelf: Arc<Shelf>,
    /// An instance can be made within a step.
    quick: bool,
}

#[derive(Default)]
struct Shelf {
    spare: Mutex<Spare>,
    changed: Condvar,
}

#[derive(Default)]
struct Spare {
    ready: Option<Result<Instance, Failure>>,
    closed: bool,
}

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, Spare> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A machine that does something else for a while should not make a quick policy look slow.
const TRIES: u32 = 3;

impl Stock {
    /// Makes a first instance. A step waits at most `patience` for another.
    pub(crate) fn open(recipe: Arc<Recipe>, patience: Duration) -> Result<Self, Error> {
        let (mut quick, mut tries) = (false, 0);
        let shelf = Arc::new(Shelf::default());
        while !quick && tries < TRIES {
            let began = Instant::now();
            shelf.lock().ready = Some(Ok(recipe.make(recipe.runtime.limits().configure)?));
            quick = began.elapsed() < patience / 2;
            tries = if began.elapsed() > 20 * patience { TRIES } else { tries + 1 };
        }
        let stock = Self { recipe, shelf, quick };
        if !quick {
            let (shelf, recipe) = (stock.shelf.clone(), stock.recipe.clone());
            let started =
                thread::Builder::new().name("policy-stock".into()).spawn(move || fill(&shelf, &recipe));
            started.map_err(|error| Error::Host(error.to_string()))?;
        }
        Ok(stock)
    }

    /// A fresh instance, within `patience`.
    pub(crate) fn take(&self, patience: Duration) -> Result<Instance, Failure> {
        let spare = self.shelf.lock().ready.take();
        self.shelf.changed.notify_all();
        match spare {
            Some(spare) => spare,
            None if self.quick => make(&self.recipe, patience),
            None => Err(Failure::new(Reason::Instantiate, "the next instance is still being configured")),
        }
    }

    /// Waits until one is ready, if it has to be made ahead; not for steps.
    pub(crate) fn wait(&self) {
        let until = Instant::now() + 2 * self.recipe.runtime.limits().configure;
        let mut spare = self.shelf.lock();
        while !self.quick && spare.ready.is_none() && Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            spare = self.shelf.changed.wait_timeout(spare, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        self.shelf.lock().closed = true;
        self.shelf.changed.notify_all();
    }
}

fn make(recipe: &Recipe, limit: Duration) -> Result<Instance, Failure> {
    recipe.make(limit).map_err(|error| match error {
        Error::Failed { reason, detail } => Failure { reason, detail },
        other => Failure::new(Reason::Instantiate, other.to_string()),
    })
}

/// Keeps one instance ready until the stock is closed.
fn fill(shelf: &Shelf, recipe: &Recipe) {
    loop {
        let mut spare = shelf.lock();
        while spare.ready.is_some() && !spare.closed {
            spare = shelf.changed.wait(spare).unwrap_or_else(PoisonError::into_inner);
        }
        if spare.closed {
            return;
        }
        drop(spare);
        let made = make(recipe, recipe.runtime.limits().configure);
        shelf.lock().ready = Some(made);
        shelf.changed.notify_all();
    }
}
