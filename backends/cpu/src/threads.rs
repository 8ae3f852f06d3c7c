//! The threads of one rank: a caller and its helpers share the chunks of a parallel region.
//!
//! Chunks are claimed one by one, so a helper that another process keeps off its core delays nobody unless it
//! holds a chunk; it need not even notice a region. Waiting spins for a bounded time, then parks.
//!
//! Invariant: a region's body runs on no thread after `run` returned.

use std::any::Any;
use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long a helper spins for the next region: longer than most gaps inside a step, and short enough that a
/// helper which shares its core sleeps now and then, and so is not the one the system takes the core from.
const HELPER_SPIN: Duration = Duration::from_micros(20);
/// How long the caller spins for chunks still held: beyond this the holder has likely lost its core, and
/// sleeping gives it ours.
const CALLER_SPIN: Duration = Duration::from_micros(10);

/// Elements that take long enough to be worth a chunk: about a microsecond.
const CHUNK_ELEMENTS: usize = 4096;

/// `(chunk, thread)`; thread 0 is the caller.
type Body<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// Keeps hot atomics on lines of their own.
#[repr(align(128))]
struct Line<T>(T);

struct Shared {
    /// Chunks of the current region in the high half, the next to claim in the low half.
    claims: Line<AtomicU64>,
    done: Line<AtomicU32>,
    /// Helpers that are parked or about to be.
    sleepers: AtomicU32,
    caller_sleeps: AtomicBool,
    caller: Mutex<Option<Thread>>,
    stop: AtomicBool,
    job: UnsafeCell<Option<*const Body<'static>>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written only while no chunk is claimed and read only by holders of a claimed chunk; the claim
// (acquire) follows the publication (release) of the claims word, so the two never race.
unsafe impl Sync for Shared {}
// SAFETY: `job` is a pointer to a `Sync` closure that outlives the region; all else is `Send`.
unsafe impl Send for Shared {}

impl Shared {
    fn claim(&self) -> Option<usize> {
        let open = |word: u64| (word & 0xffff_ffff) < word >> 32;
        if !open(self.claims.0.load(Ordering::Relaxed)) {
            return None;
        }
        let word = self.claims.0.fetch_add(1, Ordering::AcqRel);
        open(word).then_some(word as u32 as usize)
    }

    /// Runs chunks until none is left to claim.
    fn work(&self, thread: usize) {
        while let Some(chunk) = self.claim() {
            // SAFETY: a claimed chunk keeps the job in place until it is counted in `done` below.
            let Some(body) = (unsafe { *self.job.get() }) else { return };
            // SAFETY: as above; the caller of `run` keeps the closure alive until every chunk is done.
            let body = unsafe { &*body };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(chunk, thread))) {
                *locked(&self.panic) = Some(panic);
            }
            self.done.0.fetch_add(1, Ordering::SeqCst);
            if self.caller_sleeps.load(Ordering::SeqCst)
                && let Some(caller) = &*locked(&self.caller)
            {
                caller.unpark();
            }
        }
    }

    fn help(&self, thread: usize) {
        while !self.stop.load(Ordering::Relaxed) {
            if spin(HELPER_SPIN, || self.is_open()) {
                self.work(thread);
                continue;
            }
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            if !self.is_open() {
                std::thread::park();
            }
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn is_open(&self) -> bool {
        let word = self.claims.0.load(Ordering::SeqCst);
        (word & 0xffff_ffff) < word >> 32 || self.stop.load(Ordering::Relaxed)
    }
}

/// True as soon as `ready`, false when `limit` passed first.
fn spin(limit: Duration, ready: impl Fn() -> bool) -> bool {
    let mut since = None;
    loop {
        for _ in 0..32 {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
        let start = *since.get_or_insert_with(Instant::now);
        if start.elapsed() > limit {
            return false;
        }
    }
}

/// A lock whose data is whole even after a panic.
fn locked<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(|e| e.into_inner())
}

pub(crate) struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// `threads` counts the caller; at least 1. Helpers that the system refuses are done without.
    pub(crate) fn new(threads: usize) -> Pool {
        let shared = Arc::new(Shared {
            claims: Line(AtomicU64::new(0)),
            done: Line(AtomicU32::new(0)),
            sleepers: AtomicU32::new(0),
            caller_sleeps: AtomicBool::new(false),
            caller: Mutex::new(None),
            stop: AtomicBool::new(false),
            job: UnsafeCell::new(None),
            panic: Mutex::new(None),
        });
        let helper = |thread: usize| {
            let shared = shared.clone();
            let name = format!("tokenmill-cpu-{thread}");
            std::thread::Builder::new().name(name).spawn(move || shared.help(thread)).ok()
        };
        let helpers = (1..threads).map_while(helper).collect();
        Pool { shared, helpers }
    }

    /// Threads that share a region, the caller included.
    pub(crate) fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Calls `body(chunk, thread)` once for every chunk below `chunks`, on any thread, in any order; returns when
    /// all are done. A thread runs one chunk at a time. A panic of the body is raised again here.
    pub(crate) fn run(&mut self, chunks: usize, body: impl Fn(usize, usize) + Sync) {
        if chunks <= 1 || self.helpers.is_empty() {
            return (0..chunks).for_each(|chunk| body(chunk, 0));
        }
        let body: &Body<'_> = &body;
        // SAFETY: only the lifetime changes; `run` returns after the last use of the pointer.
        let body: &Body<'static> = unsafe { std::mem::transmute(body) };
        let shared = &*self.shared;
        shared.done.0.store(0, Ordering::Relaxed);
        // SAFETY: no region is open (`&mut self`, and the last `run` waited for all its chunks), so nobody reads.
        unsafe { *shared.job.get() = Some(body) };
        shared.claims.0.store((chunks as u64) << 32, Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            self.helpers.iter().for_each(|h| h.thread().unpark());
        }
        shared.work(0);
        self.join(chunks as u32);
        if let Some(panic) = locked(&shared.panic).take() {
            resume_unwind(panic);
        }
    }

    /// Calls `body` with ranges of rows that together are `0..rows`; on the caller alone if that is little work.
    pub(crate) fn rows(&mut self, rows: usize, cols: usize, body: impl Fn(Range<usize>) + Sync) {
        let per_chunk = (CHUNK_ELEMENTS / cols.max(1)).max(1);
        if rows <= 2 * per_chunk {
            return body(0..rows);
        }
        self.run(rows.div_ceil(per_chunk), |chunk, _| {
            body(chunk * per_chunk..((chunk + 1) * per_chunk).min(rows));
        });
    }

    fn join(&self, chunks: u32) {
        let shared = &*self.shared;
        let finished = || shared.done.0.load(Ordering::Acquire) == chunks;
        if spin(CALLER_SPIN, finished) {
            return;
        }
        *locked(&shared.caller) = Some(std::thread::current());
        shared.caller_sleeps.store(true, Ordering::SeqCst);
        while shared.done.0.load(Ordering::SeqCst) != chunks {
            std::thread::park();
        }
        shared.caller_sleeps.store(false, Ordering::SeqCst);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for helper in self.helpers.drain(..) {
            helper.thread().unpark();
            // A helper that panicked outside a body has nothing left to clean up.
            let _ = helper.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn every_chunk_runs_once_on_any_number_of_threads() {
        for threads in [1, 2, 3, 8] {
            let mut pool = Pool::new(threads);
            for chunks in [0, 1, 2, 7, 100] {
                for _ in 0..200 {
                    let hits: Vec<AtomicUsize> = (0..chunks).map(|_| AtomicUsize::new(0)).collect();
                    pool.run(chunks, |c, thread| {
                        assert!(thread < threads);
                        hits[c].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1));
                }
            }
        }
    }

    #[test]
    fn regions_after_a_pause_wake_the_helpers() {
        let mut pool = Pool::new(4);
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(1));
            let sum = AtomicUsize::new(0);
            pool.run(50, |c, _| {
                sum.fetch_add(c, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 1225);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let mut pool = Pool::new(3);
        let caught = catch_unwind(AssertUnwindSafe(|| pool.run(9, |c, _| assert_ne!(c, 5))));
        assert!(caught.is_err());
        let count = AtomicUsize::new(0);
        pool.run(9, |_, _| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 9);
    }
}
