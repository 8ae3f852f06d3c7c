//! The engine's state, and the thread that owns it.

use std::sync::Arc;

use tokenmill_backend::{Info, Model};
use tokenmill_kv::Pool;
use tokenmill_policy::schedule::Order;
use tokenmill_policy::{Fcfs, Samplers, Scheduler};

use crate::batch::{Columns, Step};
use crate::config::{Config, Error};
use crate::consult::Consultation;
use crate::deliver::Top;
use crate::handle::{Command, Handle, Shared};
use crate::request::Limits;
use crate::requests::Requests;
use crate::room::Room;
use crate::sampling::Sampling;
use crate::sequences::Sequences;
use crate::stats::Stats;

/// What a call of [`Engine::step`] found to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Worked,
    /// Nothing to do until a command comes.
    Idle,
    /// Shut down, drained, or without a device: nothing will ever be done again.
    Stopped,
}

/// All state. Stepped by hand in tests; [`Engine::run`] is the loop of its thread.
pub struct Engine {
    pub(crate) model: Model,
    pub(crate) config: Config,
    pub(crate) limits: Limits,
    pub(crate) scheduler: Box<dyn Scheduler>,
    pub(crate) fallback: Fcfs,
    pub(crate) samplers: Samplers,
    pub(crate) pool: Pool,
    pub(crate) sequences: Sequences,
    pub(crate) requests: Requests,
    /// Ids of sequences that ended, for the scheduler's next call.
    pub(crate) finished: Vec<u64>,
    pub(crate) order: Order,
    pub(crate) room: Room,
    pub(crate) columns: Columns,
    pub(crate) sampling: Sampling,
    /// Guesses for the sequence that is being placed.
    pub(crate) guesses: Vec<u32>,
    pub(crate) in_flight: Option<Step>,
    /// Steps to use again, for their memory.
    pub(crate) spare: Vec<Step>,
    pub(crate) serial: u32,
    pub(crate) consultation: Consultation,
    pub(crate) top: Top,
    pub(crate) inbox: Vec<Command>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) stats: Stats,
    /// Requests and prompt tokens that left the queue since its counts were brought up to date.
    pub(crate) left_queue: (u64, u64),
    pub(crate) now_us: u64,
    /// When the newest step began.
    pub(crate) began_us: u64,
    pub(crate) stopped: bool,
}

/// What was asked for, cut to what the model can hold.
fn within(info: &Info, config: &Config) -> Result<(Config, Limits), Error> {
    let max_batched_tokens = config.max_batched_tokens.min(info.max_tokens);
    // Every running sequence can have its token and its row in every step.
    let max_seqs = config.max_seqs.min(info.max_seqs).min(info.max_rows).min(max_batched_tokens);
    // Every sequence fits in the pool when it is alone.
    let pool_tokens = u64::from(info.n_blocks) * u64::from(info.block_tokens);
    let max_model_len = config.max_model_len.min(info.max_context);
    let max_model_len = u64::from(max_model_len).min(pool_tokens) as u32;
    for (field, value) in [
        ("max_batched_tokens", max_batched_tokens),
        ("max_seqs", max_seqs),
        ("max_model_len", max_model_len),
        ("max_waiting", config.max_waiting),
        ("depth", config.depth.min(info.depth)),
    ] {
        if value == 0 {
            return Err(Error::Zero { field });
        }
    }
    let depth = if config.draft_tokens > 0 { 1 } else { config.depth.min(info.depth).min(2) };
    let config = Config { max_seqs, max_batched_tokens, max_model_len, depth, ..*config };
    let limits = Limits {
        vocab: info.vocab,
        max_model_len,
        max_branches: max_seqs,
        n_blocks: info.n_blocks,
        block_tokens: info.block_tokens,
    };
    Ok((config, limits))
}

impl Engine {
    pub fn new(
        model: Model,
        scheduler: Box<dyn Scheduler>,
        samplers: Samplers,
        config: Config,
    ) -> Result<Self, Error> {
        let info = model.info();
        let (config, limits) = within(info, &config)?;
        let names: Vec<String> = samplers.names().map(str::to_owned).collect();
        let mut consultation = Consultation::default();
        consultation.finished.resize(samplers.len(), Vec::new());
        let mut engine = Self {
            pool: Pool::new(info.n_blocks, info.block_tokens),
            room: Room::new(&config, info.max_rows, info.block_tokens),
            shared: Arc::new(Shared::new(limits, names, &config)),
            model,
            config,
            limits,
            scheduler,
            fallback: Fcfs::default(),
            samplers,
            sequences: Sequences::default(),
            requests: Requests::default(),
            finished: Vec::new(),
            order: Order::default(),
            columns: Columns::new(limits.n_blocks, config.max_batched_tokens, config.max_seqs),
            sampling: Sampling::default(),
            guesses: Vec::new(),
            in_flight: None,
            spare: vec![Step::default(), Step::default()],
            serial: 0,
            consultation,
            top: Top::default(),
            inbox: Vec::new(),
            stats: Stats::default(),
            left_queue: (0, 0),
            now_us: 0,
            began_us: 0,
            stopped: false,
        };
        // The size of the pool is known before the first step.
        engine.publish();
        Ok(engine)
    }

    pub fn handle(&self) -> Handle {
        Handle::new(self.shared.clone())
    }

    /// Steps until it is stopped, and sleeps while there is nothing to do. `clock` gives microseconds
    /// that never fall.
    pub fn run(mut self, mut clock: impl FnMut() -> u64) {
        loop {
            match self.step(&mut clock) {
                Progress::Worked => {}
                Progress::Idle => self.shared.sleep(),
                Progress::Stopped => return,
            }
        }
    }

    /// Integrity of blocks and sequences; must hold between any two steps.
    pub fn check(&self) -> Result<(), String> {
        self.pool.check(self.sequences.live().map(|sequence| &sequence.rest.table))?;
        self.sequences.check()?;
        self.check_seats()?;
        self.check_writable()?;
        for sequence in self.sequences.live() {
            let live = self.requests.peek(sequence.request);
            if !live.is_some_and(|live| live.rest.branches.contains(&self.slot_of(sequence.rest.index))) {
                return Err(format!("sequence {} is not a branch of its request", sequence.id));
            }
        }
        Ok(())
    }

    fn slot_of(&self, index: u32) -> u32 {
        self.sequences.own[index as usize].slot
    }

    /// Whoever goes on without asking the pool writes to a block of its own.
    fn check_writable(&self) -> Result<(), String> {
        for sequence in self.sequences.live() {
            let index = sequence.rest.index as usize;
            let next = self.sequences.resident[index];
            if next < self.sequences.own[index].covered {
                let block = sequence.rest.table.blocks()[(next / self.limits.block_tokens) as usize];
                if !self.pool.writable(block) {
                    return Err(format!(
                        "sequence {} would write to block {block}, which it shares",
                        sequence.id
                    ));
                }
            }
        }
        Ok(())
    }

    fn check_seats(&self) -> Result<(), String> {
        let running = self.sequences.resident.iter().filter(|&&resident| resident > 0).count();
        let held: u32 = self
            .requests
            .live()
            .iter()
            .filter_map(|&slot| self.requests.peek(slot))
            .map(|live| live.rest.seats)
            .sum();
        if running as u32 + held != self.room.seats {
            return Err(format!(
                "{running} sequences run and {held} seats are held, {} counted",
                self.room.seats
            ));
        }
        Ok(())
    }
}

impl Drop for Engine {
    /// Whoever still waits for an event gets its last one.
    fn drop(&mut self) {
        self.stop(&crate::event::Failure::Shutdown);
    }
}
