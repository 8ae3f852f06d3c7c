//! What a store of wasmtime carries for one instance.

use std::time::{Duration, Instant};

use tokenmill_policy::sample::Mask;
use tokenmill_policy::{Host, sample, schedule};
use wasmtime::ResourceLimiter;
use wasmtime::component::{Resource, ResourceTable};

use crate::Limits;
use crate::error::{Failure, Reason};
use crate::meter::Meter;

/// Entries of all lists of one answer, and candidates of one call. More than any policy has to say or asks for; masks
/// carry what is longer.
pub(crate) const MOST_ENTRIES: usize = 1 << 20;
/// Lines that one call may log.
const MOST_LINES: u32 = 16;
/// Times per inspected row that work on logits is the host's time and not the guest's.
const FREE_LOOKS: u32 = 4;

pub(crate) struct State {
    pub(crate) name: String,
    pub(crate) services: Host,
    pub(crate) bounds: Bounds,
    pub(crate) masks: ResourceTable,
    pub(crate) order: schedule::Order,
    pub(crate) knobs: sample::Knobs,
    pub(crate) choices: sample::Choices,
    /// Sequences or rows of the view that is lent.
    pub(crate) len: u32,
    /// Rows that `pick` is about, by row.
    pub(crate) inspected: Vec<bool>,
    /// How many they are.
    pub(crate) picked: usize,
    /// The sequences that `batch-update` named last.
    pub(crate) batch: Vec<u64>,
    /// The first thing wrong with the answer.
    pub(crate) wrong: Option<String>,
    pub(crate) configuring: bool,
    meter: Meter,
    entries: usize,
    lines: u32,
    looks: u32,
}

/// Memory and tables of an instance.
pub(crate) struct Bounds {
    memory: usize,
    used: usize,
    table_elements: usize,
    /// Whether the guest asked for more.
    pub(crate) exceeded: bool,
}

impl State {
    pub(crate) fn new(name: &str, services: Host, limits: &Limits) -> Self {
        let mut masks = ResourceTable::new();
        masks.set_max_capacity(limits.handles);
        let (memory, table_elements) = (limits.memory, limits.table_elements);
        Self {
            name: name.into(),
            services,
            bounds: Bounds { memory, used: 0, table_elements, exceeded: false },
            masks,
            order: schedule::Order::default(),
            knobs: sample::Knobs::default(),
            choices: sample::Choices::default(),
            len: 0,
            inspected: Vec::new(),
            picked: 0,
            batch: Vec::new(),
            wrong: None,
            configuring: true,
            meter: Meter::start(Instant::now(), Duration::ZERO),
            entries: 0,
            lines: 0,
            looks: 0,
        }
    }

    /// Before a call that may last so long from then on, about a view of so many sequences or rows.
    pub(crate) fn begin(&mut self, began: Instant, limit: Duration, len: usize) {
        self.meter = Meter::start(began, limit);
        self.len = len as u32;
        self.wrong = None;
        self.entries = 0;
        self.lines = 0;
        self.looks = 0;
    }

    /// Before `pick` for these rows.
    pub(crate) fn inspect(&mut self, rows: &[u32]) {
        self.inspected.clear();
        self.inspected.resize(self.len as usize, false);
        for &row in rows {
            if let Some(inspected) = self.inspected.get_mut(row as usize) {
                *inspected = true;
            }
        }
        self.picked = rows.len();
        self.looks = FREE_LOOKS.saturating_mul(rows.len() as u32);
    }

    pub(crate) fn late(&mut self) -> bool {
        self.meter.late()
    }

    /// Before work of the host that is long compared with a call.
    pub(crate) fn on_time(&mut self) -> Result<(), Failure> {
        if self.late() {
            Err(Failure::new(Reason::Deadline, "it was still calling the host"))
        } else {
            Ok(())
        }
    }

    /// Runs work on the logits of so many rows: it waits for the device, which is not the guest's fault.
    pub(crate) fn look<R>(&mut self, rows: u32, work: impl FnOnce() -> R) -> Result<R, Failure> {
        self.on_time()?;
        let Some(looks) = self.looks.checked_sub(rows) else { return Ok(work()) };
        self.looks = looks;
        Ok(self.meter.pause(work))
    }

    /// Notes that so many entries were added to the answer.
    pub(crate) fn add(&mut self, entries: usize) -> Result<(), Failure> {
        self.entries += entries;
        if self.entries > MOST_ENTRIES {
            return Err(Failure::bad(format!("its answer has more than {MOST_ENTRIES} entries")));
        }
        Ok(())
    }

    /// Whether two columns of an answer go together; otherwise the answer is wrong.
    pub(crate) fn paired(&mut self, what: &str, one: usize, other: usize) -> Result<bool, Failure> {
        self.add(one.max(other))?;
        if one != other {
            self.blame(format!("{what}: lists of {one} and {other} entries"));
        }
        Ok(one == other)
    }

    /// Whether all rows are in the view; otherwise the answer is wrong.
    pub(crate) fn known(&mut self, what: &str, rows: &[u32]) -> bool {
        let unknown = rows.iter().find(|row| **row >= self.len);
        if let Some(row) = unknown {
            self.blame(format!("{what}: {row} is not in the view of {}", self.len));
        }
        unknown.is_none()
    }

    pub(crate) fn blame(&mut self, wrong: String) {
        self.wrong.get_or_insert(wrong);
    }

    /// Whether one more line may be logged in this call.
    pub(crate) fn log_line(&mut self) -> bool {
        self.lines += 1;
        self.lines <= MOST_LINES
    }

    pub(crate) fn mask(&self, handle: &Resource<Mask>) -> Result<Mask, Failure> {
        self.masks.get(handle).cloned().map_err(|error| Failure::bad(error.to_string()))
    }
}

impl ResourceLimiter for Bounds {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        // Over all memories of the component.
        let used = self.used.saturating_sub(current).saturating_add(desired);
        if used > self.memory {
            self.exceeded = true;
            return Err(Failure::new(
                Reason::Memory,
                format!("memory of {used} bytes, at most {}", self.memory),
            )
            .into());
        }
        self.used = used;
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        if desired > self.table_elements {
            self.exceeded = true;
            let most = self.table_elements;
            return Err(Failure::new(
                Reason::Memory,
                format!("a table of {desired} elements, at most {most}"),
            )
            .into());
        }
        Ok(true)
    }

    // Of core instances, over all parts of one component.
    fn instances(&self) -> usize {
        64
    }

    fn tables(&self) -> usize {
        16
    }

    fn memories(&self) -> usize {
        8
    }
}
