//! Where the ranks of a stage meet: the sum over all of them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, RwLock};
use std::time::{Duration, Instant};
use tokenmill_backend_model::error::Error;

/// Ranks arrive together, or one of them has much more to do: spin briefly, then sleep.
const SPIN: Duration = Duration::from_micros(50);

/// What another rank learns when one failed.
pub(crate) fn lost() -> Error {
    Error::Lost("another rank of the model failed".into())
}

/// What the ranks of one stage share.
pub struct Group {
    /// Two sets of buffers by turns, so that one meeting per sum is enough: a rank that is a whole sum ahead
    /// writes the other set.
    slots: [Vec<RwLock<Vec<f32>>>; 2],
    arrivals: AtomicU64,
    aborted: AtomicBool,
    lock: Mutex<()>,
    arrived: Condvar,
}

impl Group {
    pub fn new(ranks: usize) -> Group {
        let set = || (0..ranks).map(|_| RwLock::default()).collect();
        Group {
            slots: [set(), set()],
            arrivals: AtomicU64::new(0),
            aborted: AtomicBool::new(false),
            lock: Mutex::new(()),
            arrived: Condvar::new(),
        }
    }

    pub fn ranks(&self) -> usize {
        self.slots[0].len()
    }

    /// Every rank that waits, now or later, gets `Error::Lost`.
    pub fn abort(&self) {
        self.aborted.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Sums `x` over the ranks in the order of their numbers; `turn` counts a rank's calls from 0.
    pub fn sum(&self, rank: usize, turn: u64, x: &mut [f32]) -> Result<(), Error> {
        if self.ranks() == 1 {
            return Ok(());
        }
        let slots = &self.slots[(turn % 2) as usize];
        {
            let mut mine = slots[rank].write().map_err(|_| lost())?;
            mine.clear();
            mine.extend_from_slice(x);
        }
        if !self.meet((turn + 1) * self.ranks() as u64) {
            return Err(lost());
        }
        x.fill(0.0);
        for slot in slots {
            let part = slot.read().map_err(|_| lost())?;
            x.iter_mut().zip(part.iter()).for_each(|(x, part)| *x += part);
        }
        Ok(())
    }

    /// Counts one arrival and waits for `all`; false if the group was aborted.
    fn meet(&self, all: u64) -> bool {
        let done = || self.arrivals.load(Ordering::SeqCst) >= all || self.aborted.load(Ordering::SeqCst);
        if self.arrivals.fetch_add(1, Ordering::SeqCst) + 1 >= all {
            self.wake();
        }
        let start = Instant::now();
        while !done() && start.elapsed() < SPIN {
            std::hint::spin_loop();
        }
        let mut guard = self.lock.lock().unwrap_or_else(|e| e.into_inner());
        while !done() {
            guard = self.arrived.wait(guard).unwrap_or_else(|e| e.into_inner());
        }
        !self.aborted.load(Ordering::SeqCst)
    }

    fn wake(&self) {
        // Taken so that no rank is between its last look and its sleep.
        drop(self.lock.lock());
        self.arrived.notify_all();
    }
}
