//! The requests in flight: awaited by the drain, and reachable to end them all with an error event.

use crate::queue::Queue;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokenmill_engine::Failure;
use tokio::sync::Notify;

#[derive(Clone, Default)]
pub(crate) struct Live {
    registry: Arc<Mutex<Registry>>,
    none_left: Arc<Notify>,
}

#[derive(Default)]
struct Registry {
    next: u64,
    queues: HashMap<u64, Arc<Queue>>,
}

/// Membership of one request; leaves when dropped.
pub(crate) struct Entry {
    live: Live,
    key: u64,
}

impl Live {
    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn enter(&self, queue: Arc<Queue>) -> Entry {
        let mut registry = self.lock();
        let key = registry.next;
        registry.next += 1;
        registry.queues.insert(key, queue);
        Entry { live: self.clone(), key }
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().queues.len()
    }

    /// Returns when no request is in flight.
    pub(crate) async fn empty(&self) {
        loop {
            let none_left = self.none_left.notified();
            if self.len() == 0 {
                return;
            }
            none_left.await;
        }
    }

    pub(crate) fn fail_all(&self, failure: &Failure) {
        for queue in self.lock().queues.values() {
            queue.fail(failure.clone());
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut registry = self.live.lock();
        registry.queues.remove(&self.key);
        let last = registry.queues.is_empty();
        drop(registry);
        if last {
            self.live.none_left.notify_waiters();
        }
    }
}
