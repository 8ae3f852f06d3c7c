//! How many connections are open, in all and per address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

#[derive(Clone, Default)]
pub(crate) struct Slots {
    open: Arc<Mutex<Open>>,
    none_left: Arc<Notify>,
}

#[derive(Default)]
struct Open {
    total: usize,
    by_ip: HashMap<IpAddr, usize>,
}

/// One connection's place; given back when dropped.
pub(crate) struct Slot {
    slots: Slots,
    ip: IpAddr,
}

impl Slots {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: `total` connections are open, or `per_ip` of this address.
    pub(crate) fn take(&self, ip: IpAddr, total: usize, per_ip: usize) -> Option<Slot> {
        let mut open = self.lock();
        let mine = open.by_ip.get(&ip).copied().unwrap_or(0);
        if open.total >= total || mine >= per_ip {
            return None;
        }
        open.total += 1;
        open.by_ip.insert(ip, mine + 1);
        Some(Slot { slots: self.clone(), ip })
    }

    /// Returns when no connection is open.
    pub(crate) async fn empty(&self) {
        loop {
            let none_left = self.none_left.notified();
            if self.lock().total == 0 {
                return;
            }
            none_left.await;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.slots.lock();
        open.total -= 1;
        if let Some(mine) = open.by_ip.get_mut(&self.ip) {
            *mine -= 1;
            if *mine == 0 {
                open.by_ip.remove(&self.ip);
            }
        }
        let last = open.total == 0;
        drop(open);
        if last {
            self.slots.none_left.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_bounded_and_given_back() {
        let (one, two) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let slots = Slots::default();
        let first = slots.take(one, 3, 2).unwrap();
        let second = slots.take(one, 3, 2).unwrap();
        assert!(slots.take(one, 3, 2).is_none());
        let third = slots.take(two, 3, 2).unwrap();
        assert!(slots.take(two, 3, 2).is_none());
        drop((first, third));
        assert!(slots.take(one, 3, 2).is_some());
        drop(second);
        let open = slots.lock();
        assert_eq!((open.total, open.by_ip.len()), (0, 0));
    }
}
