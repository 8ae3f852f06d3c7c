//! Seats of a request: one for each branch that holds KV, and those kept for branches to come while any does.

use crate::engine::Engine;

impl Engine {
    /// Seats to keep beside that of a branch that starts; none if another branch keeps them already.
    pub(crate) fn seats_to_keep(&self, request: u32) -> u32 {
        let Some(live) = self.requests.peek(request).filter(|_| !self.runs(request)) else { return 0 };
        live.rest.dormant.len() as u32 + live.rest.forks
    }

    /// Whether any branch of a request holds KV.
    fn runs(&self, request: u32) -> bool {
        let index = |&slot: &u32| self.sequences.slots[slot as usize].rest.index as usize;
        let runs = |slot| self.sequences.resident[index(slot)] > 0;
        self.requests.peek(request).is_some_and(|live| live.rest.branches.iter().any(runs))
    }

    /// A branch gives up its KV. One that ends leaves its seat to a fork, if its request's policy can fork.
    pub(crate) fn vacate(&mut self, slot: u32, ends: bool) {
        let sequence = &self.sequences.slots[slot as usize];
        let (i, request) = (sequence.rest.index as usize, sequence.request);
        let seats = u32::from(std::mem::take(&mut self.sequences.resident[i]) > 0);
        self.sequences.own[i].covered = 0;
        let runs = self.runs(request);
        let Some(live) = self.requests.get(request) else {
            self.room.seats -= seats;
            return;
        };
        let forks = u32::from(ends && live.rest.sampler.is_some());
        live.rest.forks += forks;
        live.rest.seats += seats * forks;
        self.room.seats -= seats * (1 - forks);
        if !runs {
            self.room.seats -= std::mem::take(&mut live.rest.seats);
        }
    }

    /// Counts a fork, and finds a seat for it, if it has computed tokens to hold: one that is kept, or a free one.
    pub(crate) fn seat_fork(&mut self, request: u32, computed: bool) -> bool {
        let Some(live) = self.requests.get(request) else { return false };
        live.rest.forks -= 1;
        let kept = live.rest.seats > 0;
        let free = self.room.has_seats(1);
        live.rest.seats -= u32::from(kept);
        match (kept, computed) {
            (true, true) => {}
            (true, false) => self.room.seats -= 1,
            (false, _) => self.room.seats += u32::from(computed && free),
        }
        computed && (kept || free)
    }
}
