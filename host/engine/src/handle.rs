//! The way in: queue bound, commands and counters shared with the engine's thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokenmill_policy::{Named, Scheduler};

use crate::config::Config;
use crate::event::Output;
use crate::request::{Limits, Request};
use crate::stats::Stats;

/// Names a request; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Try again later.
    #[error("the queue is full")]
    QueueFull,
    /// This engine takes no more requests.
    #[error("the server is draining")]
    Draining,
    #[error("the prompt has {tokens} tokens; prompt and output together must fit in {limit}")]
    TooLong { tokens: u64, limit: u32 },
    #[error("{field} {message}")]
    Invalid { field: &'static str, message: String },
    /// The engine stopped or lost its device.
    #[error("the engine has stopped")]
    Stopped,
}

pub(crate) enum Command {
    Submit { id: RequestId, request: Box<Request>, output: Box<dyn Output> },
    Cancel(RequestId),
    EndBranch(RequestId, u32),
    Install(Named),
    Remove(String),
    Schedule(Box<dyn Scheduler>),
}

/// Requests that were accepted and not yet started.
#[derive(Default)]
pub(crate) struct Queue {
    pub(crate) commands: Vec<Command>,
    pub(crate) requests: u64,
    pub(crate) tokens: u64,
    next: u64,
    stats: Stats,
    /// Sampling policies that a request can name.
    samplers: Vec<String>,
}

pub(crate) struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Commands may be waiting; spares an idle look the lock.
    pub(crate) pending: AtomicBool,
    pub(crate) draining: AtomicBool,
    pub(crate) shutdown: AtomicBool,
    pub(crate) stopped: AtomicBool,
    pub(crate) limits: Limits,
    pub(crate) max_waiting: u64,
    pub(crate) max_waiting_tokens: u64,
}

impl Shared {
    pub(crate) fn new(limits: Limits, samplers: Vec<String>, config: &Config) -> Self {
        Self {
            queue: Mutex::new(Queue { samplers, ..Queue::default() }),
            wake: Condvar::new(),
            pending: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            shutdown: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            limits,
            max_waiting: u64::from(config.max_waiting),
            max_waiting_tokens: config.max_waiting_tokens,
        }
    }

    /// Moves the commands that came since into an empty list; false if there was no sign of any.
    pub(crate) fn take(&self, inbox: &mut Vec<Command>) -> bool {
        let pending = self.pending.swap(false, Ordering::AcqRel);
        if pending {
            std::mem::swap(&mut self.queue().commands, inbox);
        }
        pending
    }

    /// Until something is pending.
    pub(crate) fn sleep(&self) {
        let mut queue = self.queue();
        while !self.pending.load(Ordering::Acquire) {
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// New counters; `left` are requests and tokens that are not queued any more.
    pub(crate) fn publish(&self, stats: &Stats, left: (u64, u64)) {
        let mut queue = self.queue();
        queue.stats = *stats;
        queue.requests -= left.0;
        queue.tokens -= left.1;
    }

    /// Draining, and nothing is queued.
    pub(crate) fn finished(&self) -> bool {
        self.draining.load(Ordering::Acquire) && self.queue().requests == 0
    }

    /// The queue, also after a panic elsewhere: it is consistent between statements.
    pub(crate) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Talks to an engine from any thread.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Queues a request; its events go to `output`.
    pub fn submit(&self, request: Request, output: Box<dyn Output>) -> Result<RequestId, Refused> {
        let shared = &*self.shared;
        shared.limits.check(&request)?;
        let tokens = request.prompt.len() as u64;
        let request = Box::new(request);
        let mut queue = shared.queue();
        if shared.stopped.load(Ordering::Acquire) {
            return Err(Refused::Stopped);
        }
        if shared.draining.load(Ordering::Acquire) {
            return Err(Refused::Draining);
        }
        if let Some(name) = request.sampler.as_ref().filter(|name| !queue.samplers.contains(name)) {
            let message = format!("names {name:?}, which is not loaded");
            return Err(Refused::Invalid { field: "policy.sampler", message });
        }
        if queue.requests >= shared.max_waiting || queue.tokens + tokens > shared.max_waiting_tokens {
            return Err(Refused::QueueFull);
        }
        queue.next += 1;
        queue.requests += 1;
        queue.tokens += tokens;
        let id = RequestId(queue.next);
        queue.commands.push(Command::Submit { id, request, output });
        drop(queue);
        self.wake();
        Ok(id)
    }

    /// Ends a request, wherever it is; its blocks are free within a step and no event follows.
    pub fn cancel(&self, id: RequestId) {
        self.shared.queue().commands.push(Command::Cancel(id));
        self.wake();
    }

    /// Ends one branch (a stop string was found); its siblings go on.
    pub fn end_branch(&self, id: RequestId, branch: u32) {
        self.shared.queue().commands.push(Command::EndBranch(id, branch));
        self.wake();
    }

    /// Adds a sampling policy, or replaces the one of its name; requests that began with that one keep it.
    pub fn install_sampler(&self, named: Named) {
        let mut queue = self.shared.queue();
        queue.samplers.retain(|name| *name != named.name);
        queue.samplers.push(named.name.clone());
        queue.commands.push(Command::Install(named));
        drop(queue);
        self.wake();
    }

    /// New requests cannot name the policy any more; those that began with it keep it.
    pub fn remove_sampler(&self, name: &str) {
        let mut queue = self.shared.queue();
        queue.samplers.retain(|other| other != name);
        queue.commands.push(Command::Remove(name.to_owned()));
        drop(queue);
        self.wake();
    }

    /// From the next step on.
    pub fn set_scheduler(&self, scheduler: Box<dyn Scheduler>) {
        self.shared.queue().commands.push(Command::Schedule(scheduler));
        self.wake();
    }

    /// Names of the sampling policies that a request can choose.
    pub fn samplers(&self) -> Vec<String> {
        self.shared.queue().samplers.clone()
    }

    pub fn stats(&self) -> Stats {
        let shared = &*self.shared;
        let queue = shared.queue();
        Stats {
            waiting_tokens: queue.tokens,
            draining: shared.draining.load(Ordering::Relaxed),
            ..queue.stats
        }
    }

    pub fn limits(&self) -> Limits {
        self.shared.limits
    }

    /// Refuses new requests; `Engine::run` returns when the rest is done.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Release);
        self.wake();
    }

    /// Fails what is left and stops at once.
    pub fn shutdown(&self) {
        self.shared.draining.store(true, Ordering::Release);
        self.shared.shutdown.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        self.shared.pending.store(true, Ordering::Release);
        let _guard = self.shared.queue();
        self.shared.wake.notify_one();
    }
}
