//! Which tickets are alive, what is known of them, and whether the device is lost.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokenmill_backend_abi as abi;

use crate::fault::Fault;

/// Shared by the caller's threads and the ranks.
pub(crate) struct Tickets {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    slots: Vec<Slot>,
    /// Why the device is lost.
    lost: Option<String>,
}

/// One of `depth` places for a ticket that is alive.
#[derive(Default)]
struct Slot {
    /// 0 = free.
    ticket: u64,
    rows: usize,
    computed: bool,
    sample_asked: bool,
    sampled: bool,
    fault: Option<Fault>,
    tokens: Vec<i32>,
    logprobs: Vec<f32>,
}

impl Slot {
    fn done(&self) -> bool {
        self.computed && (self.sampled || !self.sample_asked)
    }
}

impl State {
    fn slot(&mut self, ticket: u64) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.ticket == ticket && ticket != 0)
    }

    fn alive(&mut self, ticket: u64) -> Result<&mut Slot, Fault> {
        self.slot(ticket).ok_or_else(|| Fault::invalid(format!("ticket {ticket} is not alive")))
    }
}

impl Tickets {
    pub(crate) fn new(depth: usize, max_rows: usize) -> Self {
        let slot = || Slot {
            tokens: Vec::with_capacity(max_rows),
            logprobs: Vec::with_capacity(max_rows),
            ..Slot::default()
        };
        let slots = (0..depth).map(|_| slot()).collect();
        Self { state: Mutex::new(State { slots, lost: None }), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn check_lost(&self) -> Result<(), Fault> {
        self.lock().lost.as_deref().map_or(Ok(()), |why| Err(Fault::lost(why)))
    }

    pub(crate) fn check_alive(&self, ticket: u64) -> Result<(), Fault> {
        self.lock().alive(ticket).map(drop)
    }

    /// A slot for the next ticket.
    pub(crate) fn free_slot(&self) -> Result<usize, Fault> {
        let state = self.lock();
        let free = state.slots.iter().position(|slot| slot.ticket == 0);
        free.ok_or_else(|| {
            let depth = state.slots.len();
            Fault::new(abi::AGAIN, format!("depth: {depth} tickets are alive; release one first"))
        })
    }

    pub(crate) fn begin(&self, index: usize, ticket: u64, rows: usize) {
        let slot = &mut self.lock().slots[index];
        let (tokens, logprobs) = (std::mem::take(&mut slot.tokens), std::mem::take(&mut slot.logprobs));
        *slot = Slot { ticket, rows, tokens, logprobs, ..Slot::default() };
    }

    pub(crate) fn ask_sample(&self, ticket: u64) {
        if let Some(slot) = self.lock().slot(ticket) {
            slot.sample_asked = true;
        }
    }

    pub(crate) fn release(&self, ticket: u64) {
        if let Some(slot) = self.lock().slot(ticket) {
            slot.ticket = 0;
        }
        self.changed.notify_all();
    }

    // --- the ranks' side ---

    pub(crate) fn computed(&self, ticket: u64) {
        if let Some(slot) = self.lock().slot(ticket) {
            slot.computed = true;
        }
        self.changed.notify_all();
    }

    pub(crate) fn sampled(&self, ticket: u64, tokens: &[i32], logprobs: &[f32]) {
        if let Some(slot) = self.lock().slot(ticket) {
            slot.tokens.clear();
            slot.tokens.extend_from_slice(tokens);
            slot.logprobs.clear();
            slot.logprobs.extend_from_slice(logprobs);
            slot.sampled = true;
        }
        self.changed.notify_all();
    }

    /// A rank failed, in the work of `ticket` or another; the device is lost. The first reports stay.
    pub(crate) fn failed(&self, ticket: Option<u64>, fault: Fault) {
        let mut state = self.lock();
        state.lost.get_or_insert_with(|| fault.text.clone());
        if let Some(slot) = ticket.and_then(|ticket| state.slot(ticket)) {
            slot.fault.get_or_insert(fault);
        }
        drop(state);
        self.changed.notify_all();
    }

    // --- the caller's side ---

    /// Queues a read of a row: `queue` gets its slot before any later step can take it.
    pub(crate) fn read(&self, ticket: u64, row: u32, queue: impl FnOnce(usize)) -> Result<(), Fault> {
        let mut state = self.lock();
        let slot = state.alive(ticket)?;
        if row as usize >= slot.rows {
            return Err(Fault::invalid(format!("row = {row}: ticket {ticket} has {} rows", slot.rows)));
        }
        if let Some(fault) = &slot.fault {
            return Err(fault.clone());
        }
        if let Some(why) = &state.lost {
            return Err(Fault::lost(why));
        }
        state.slots.iter().position(|slot| slot.ticket == ticket).map(queue);
        Ok(())
    }

    /// Waits until the queued work of `ticket` is done, then hands its samples to `take`.
    pub(crate) fn wait(
        &self,
        ticket: u64,
        ns: u64,
        take: impl FnOnce(&[i32], &[f32]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let deadline = match ns {
            u64::MAX => None,
            ns => Instant::now().checked_add(Duration::from_nanos(ns)),
        };
        let mut state = self.lock();
        loop {
            let slot = state.alive(ticket)?;
            if let Some(fault) = &slot.fault {
                return Err(fault.clone());
            }
            if slot.done() {
                return if slot.sampled { take(&slot.tokens, &slot.logprobs) } else { take(&[], &[]) };
            }
            if let Some(why) = &state.lost {
                return Err(Fault::lost(why));
            }
            state = match deadline.map(|at| at.saturating_duration_since(Instant::now())) {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => {
                    return Err(Fault::new(abi::TIMEOUT, format!("ticket {ticket} is still running")));
                }
                Some(left) => {
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}
