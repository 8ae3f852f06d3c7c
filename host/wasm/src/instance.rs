//! One instance of a component, alone in its store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokenmill_policy::Host;
use wasmtime::component::{InstancePre, Resource};
use wasmtime::{Store, Trap, UpdateDeadline};

use crate::contract::types;
use crate::contract::{sampler, scheduler};
use crate::error::{Failure, Reason};
use crate::health::Record;
use crate::runtime::Runtime;
use crate::state::State;
use crate::{Error, Limits};

/// When a call began, and how long it may last.
pub(crate) type Time = (Instant, Duration);

/// Handles of a call: its view, its logits and its answer.
const LENT: usize = 8;

/// Where the exports of a component are.
pub(crate) enum Exports {
    Scheduler(scheduler::GuestIndices),
    Sampler(sampler::GuestIndices),
}

enum Guest {
    Scheduler(scheduler::Guest),
    Sampler(sampler::Guest),
}

/// How to make instances of a policy.
pub(crate) struct Recipe {
    pub(crate) runtime: Runtime,
    pub(crate) pre: InstancePre<State>,
    pub(crate) exports: Exports,
    pub(crate) name: String,
    pub(crate) config: String,
    pub(crate) services: Host,
    pub(crate) record: Arc<Record>,
}

impl Recipe {
    /// An instance that is configured; starting and configuring it may each last so long.
    pub(crate) fn make(&self, limit: Duration) -> Result<Instance, Error> {
        let mut instance = self.start(limit)?;
        instance.configure(&self.config, limit)?;
        Ok(instance)
    }

    /// An instance whose code ran no further than its start function.
    pub(crate) fn start(&self, limit: Duration) -> Result<Instance, Failure> {
        let mut store = self.store(self.runtime.limits());
        arm(&mut store, (Instant::now(), limit), 0);
        let load = |store: &mut Store<State>| {
            let instance = self.pre.instantiate(&mut *store)?;
            Ok(match &self.exports {
                Exports::Scheduler(exports) => Guest::Scheduler(exports.load(store, &instance)?),
                Exports::Sampler(exports) => Guest::Sampler(exports.load(store, &instance)?),
            })
        };
        let guest = load(&mut store).map_err(|error| match failure(&error, &store) {
            Failure { reason: Reason::Trap, detail } => Failure::new(Reason::Instantiate, detail),
            failure => failure,
        })?;
        self.record.made_instance();
        Ok(Instance { store, guest, broken: false })
    }

    fn store(&self, limits: &Limits) -> Store<State> {
        let state = State::new(&self.name, self.services.clone(), limits);
        let mut store = Store::new(self.runtime.engine(), state);
        store.limiter(|state| &mut state.bounds);
        store.set_hostcall_fuel(limits.hostcall_bytes);
        // Masks run out first, with a reason; views and answers are lent to a call in a few more.
        store.set_max_component_handles(limits.handles + LENT);
        store.epoch_deadline_callback(|mut store| {
            Ok(if store.data_mut().late() { UpdateDeadline::Interrupt } else { UpdateDeadline::Continue(1) })
        });
        store
    }
}

/// Lets the next call last so long from then on.
fn arm(store: &mut Store<State>, (began, limit): Time, len: usize) {
    store.data_mut().begin(began, limit, len);
    // Every tick looks at the clocks.
    store.set_epoch_deadline(1);
}

pub(crate) struct Instance {
    store: Store<State>,
    guest: Guest,
    broken: bool,
}

/// What a guest answers, or how it failed to.
type Answer = wasmtime::Result<Result<(), types::Error>>;

impl Instance {
    /// Whether it trapped, and must be dropped.
    pub(crate) fn broken(&self) -> bool {
        self.broken
    }

    pub(crate) fn state(&mut self) -> &mut State {
        self.store.data_mut()
    }

    fn call(&mut self, call: impl FnOnce(&Guest, &mut Store<State>) -> Answer) -> Result<(), Failure> {
        match call(&self.guest, &mut self.store) {
            Ok(Ok(())) => self.state().wrong.take().map_or(Ok(()), |wrong| Err(Failure::bad(wrong))),
            Ok(Err(types::Error::Undecided(why))) => Err(Failure::new(Reason::Undecided, shorten(&why))),
            Ok(Err(types::Error::BadConfig(why))) => {
                Err(Failure::bad(format!("bad-config: {}", shorten(&why))))
            }
            Err(error) => {
                self.broken = true;
                Err(failure(&error, &self.store))
            }
        }
    }

    fn configure(&mut self, config: &str, limit: Duration) -> Result<(), Error> {
        arm(&mut self.store, (Instant::now(), limit), 0);
        let mut refused = None;
        let done = self.call(|guest, store| {
            let answer = match guest {
                Guest::Scheduler(guest) => guest.call_configure(store, config),
                Guest::Sampler(guest) => guest.call_configure(store, config),
            };
            if let Ok(Err(types::Error::BadConfig(why))) = &answer {
                refused = Some(shorten(why));
            }
            answer
        });
        self.state().configuring = false;
        match refused {
            Some(why) => Err(Error::Config(why)),
            None => done.map_err(Error::from),
        }
    }

    /// `plan` of a scheduler about so many sequences; the view is lent by the caller.
    pub(crate) fn schedule(&mut self, time: Time, len: usize) -> Result<(), Failure> {
        arm(&mut self.store, time, len);
        self.state().order.clear();
        self.call(|guest, store| match guest {
            Guest::Scheduler(guest) => {
                guest.call_plan(store, Resource::new_borrow(0), Resource::new_borrow(0))
            }
            Guest::Sampler(_) => Err(wrong_kind()),
        })
    }

    /// `plan` of a sampler about so many rows.
    pub(crate) fn plan(&mut self, time: Time, len: usize) -> Result<(), Failure> {
        arm(&mut self.store, time, len);
        self.state().knobs.clear();
        self.call(|guest, store| match guest {
            Guest::Sampler(guest) => guest.call_plan(store, Resource::new_borrow(0), Resource::new_borrow(0)),
            Guest::Scheduler(_) => Err(wrong_kind()),
        })
    }

    /// `pick` of a sampler, about rows of a view of `len` rows.
    pub(crate) fn pick(&mut self, time: Time, len: usize, rows: &[u32]) -> Result<(), Failure> {
        arm(&mut self.store, time, len);
        self.state().inspect(rows);
        self.state().choices.clear();
        self.call(|guest, store| match guest {
            Guest::Sampler(guest) => guest.call_pick(
                store,
                Resource::new_borrow(0),
                Resource::new_borrow(0),
                rows,
                Resource::new_borrow(0),
            ),
            Guest::Scheduler(_) => Err(wrong_kind()),
        })
    }
}

fn wrong_kind() -> wasmtime::Error {
    Failure::bad("it is of the other kind").into()
}

/// What ended a call.
fn failure(error: &wasmtime::Error, store: &Store<State>) -> Failure {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return failure.clone();
    }
    let trap = error.downcast_ref::<Trap>();
    let detail = trap.map_or_else(|| error.root_cause().to_string(), Trap::to_string);
    let reason = match trap {
        Some(Trap::Interrupt) => Reason::Deadline,
        _ if store.data().bounds.exceeded => Reason::Memory,
        _ => Reason::Trap,
    };
    Failure::new(reason, shorten(&detail))
}

/// The first 300 characters, on one line.
fn shorten(text: &str) -> String {
    text.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
