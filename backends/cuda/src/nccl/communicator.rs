//! One communicator of one rank, and the ways it ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::{Duration, Instant};

use cudarc::driver::sys::CUstream;
use tokenmill_backend_model::error::Error;

use super::library::{Element, Handle, Library, UniqueId};

/// A call of NCCL lasts microseconds, unless it waits for a rank that is gone.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a rank that waited for another learns.
pub(super) fn lost() -> Error {
    Error::Lost("another rank of the model failed".into())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) struct Communicator {
    library: &'static Library,
    handle: Handle,
    /// NCCL takes one call at a time on a communicator.
    calls: Mutex<()>,
    /// The handle is gone, or about to be.
    ended: AtomicBool,
    aborting: Mutex<Option<JoinHandle<()>>>,
}

// SAFETY: NCCL lets any thread use a communicator, one at a time, which `calls` sees to; only an abort may come
// beside another call.
unsafe impl Send for Communicator {}
// SAFETY: as above.
unsafe impl Sync for Communicator {}

impl Communicator {
    /// Rank `rank` of `ranks`; waits for the others.
    pub(super) fn new(
        library: &'static Library,
        ranks: usize,
        id: UniqueId,
        rank: usize,
    ) -> Result<Arc<Self>, Error> {
        let handle = library.init_rank(ranks, id, rank)?;
        let (calls, ended, aborting) = (Mutex::new(()), AtomicBool::new(false), Mutex::new(None));
        Ok(Arc::new(Self { library, handle, calls, ended, aborting }))
    }

    fn call(&self, call: impl FnOnce(&Library, Handle) -> Result<(), Error>) -> Result<(), Error> {
        let _alone = lock(&self.calls);
        if self.ended.load(Ordering::SeqCst) {
            return Err(lost());
        }
        let done = call(self.library, self.handle);
        // What an abort does to a call that waited is no news of its own.
        if self.ended.load(Ordering::SeqCst) { Err(lost()) } else { done }
    }

    /// f32; `count` numbers at `x` must be alive until it ran.
    pub(super) fn all_reduce(&self, x: u64, count: usize, stream: CUstream) -> Result<(), Error> {
        // SAFETY: the handle is alive; the rest as said.
        self.call(|library, handle| unsafe { library.all_reduce(handle, x, count, stream) })
    }

    /// As `all_reduce`.
    pub(super) fn send(
        &self,
        from: u64,
        count: usize,
        element: Element,
        to: usize,
        stream: CUstream,
    ) -> Result<(), Error> {
        // SAFETY: as above.
        self.call(|library, handle| unsafe { library.send(handle, from, count, element, to, stream) })
    }

    /// As `all_reduce`.
    pub(super) fn receive(
        &self,
        to: u64,
        count: usize,
        element: Element,
        from: usize,
        stream: CUstream,
    ) -> Result<(), Error> {
        // SAFETY: as above.
        self.call(|library, handle| unsafe { library.receive(handle, to, count, element, from, stream) })
    }

    /// From any thread: what runs on the device and waits for other ranks ends, and so does a call.
    pub(super) fn abort(self: &Arc<Self>) {
        if self.ended.swap(true, Ordering::SeqCst) {
            return;
        }
        // NCCL tells the device first, then waits for recorded steps that hold its work to be freed; who calls this
        // may be the one who frees them.
        let own = self.clone();
        match Builder::new().name("nccl-abort".into()).spawn(move || own.give_up()) {
            Ok(thread) => *lock(&self.aborting) = Some(thread),
            Err(_) => self.give_up(),
        }
    }

    fn give_up(&self) {
        // If a call waits on the host for a rank that is gone, aborting beside it is the only way to end it.
        let _alone = self.lock_within(PATIENCE);
        // SAFETY: the handle is alive, for `ended` is set once.
        let _ = unsafe { self.library.abort(self.handle) };
    }

    fn lock_within(&self, patience: Duration) -> Option<MutexGuard<'_, ()>> {
        let start = Instant::now();
        loop {
            match self.calls.try_lock() {
                Ok(guard) => return Some(guard),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if start.elapsed() > patience => return None,
                Err(TryLockError::WouldBlock) => sleep(Duration::from_millis(1)),
            }
        }
    }

    /// On the rank's own thread, where its context is current, once no recorded step holds work of NCCL: it would
    /// wait for that, as it waits for what is queued.
    pub(super) fn close(&self) {
        if self.ended.swap(true, Ordering::SeqCst) {
            return self.wait_aborted();
        }
        let _alone = lock(&self.calls);
        // SAFETY: as in `give_up`.
        let _ = unsafe { self.library.destroy(self.handle) };
    }

    /// A while: a device that is lost may never let go.
    fn wait_aborted(&self) {
        let Some(thread) = lock(&self.aborting).take() else { return };
        let start = Instant::now();
        while !thread.is_finished() && start.elapsed() < PATIENCE {
            sleep(Duration::from_millis(1));
        }
    }
}

/// Tells whether what ran was whole: work that was aborted ends like work that was not.
#[derive(Clone)]
pub struct Watch {
    communicators: Arc<[Arc<Communicator>]>,
}

impl Watch {
    pub(super) fn new(communicators: impl Iterator<Item = Arc<Communicator>>) -> Self {
        Self { communicators: communicators.collect() }
    }

    pub fn check(&self) -> Result<(), Error> {
        // SAFETY: the handle is alive in a call.
        let sound = |library: &Library, handle| unsafe { library.async_error(handle) };
        self.communicators.iter().try_for_each(|communicator| communicator.call(sound))
    }
}
