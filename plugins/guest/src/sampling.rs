//! A sampler behind the contract's world `sampling`.

use std::{borrow::Cow, cell::OnceCell};

use tokenmill_policy::{
    Sampler,
    sample::{self, Choices, Knobs, Ragged},
};

use crate::{bindings::sampling as wit, flush::Flush, logits::Logits};

/// A component's one policy, with its answers' memory.
#[derive(Default)]
pub struct Instance<P> {
    policy: P,
    knobs: Knobs,
    choices: Choices,
    batch: Batch,
    flush: Flush,
}

/// Whose rows a step has. It seldom changes, so the host is asked for changes alone, once a step: nearly every policy
/// reads it.
#[derive(Default)]
struct Batch {
    ids: Vec<u64>,
    finished: Vec<u64>,
}

impl Batch {
    fn update(&mut self) {
        self.finished.clear();
        if let Some((ids, finished)) = wit::View::batch_update() {
            *self = Self { ids, finished };
        }
    }
}

impl<P: Sampler> Instance<P> {
    pub fn configure(&mut self, config: &str) -> Result<(), wit::Error> {
        crate::host::log_panics();
        self.policy.configure(config, crate::host::services()).map_err(error)
    }

    pub fn plan(&mut self, view: &wit::View, out: &wit::Knobs) -> Result<(), wit::Error> {
        self.knobs.clear();
        self.batch.update();
        self.policy.plan(&View::new(view, &self.batch), &mut self.knobs).map_err(error)?;
        self.flush.knobs(&mut self.knobs, self.batch.ids.len(), out);
        Ok(())
    }

    pub fn pick(
        &mut self,
        view: &wit::View,
        logits: &wit::Logits,
        rows: &[u32],
        out: &wit::Choices,
    ) -> Result<(), wit::Error> {
        self.choices.clear();
        let mut logits = Logits::new(logits);
        self.policy
            .pick(&View::new(view, &self.batch), &mut logits, rows, &mut self.choices)
            .map_err(error)?;
        self.flush.choices(&self.choices, out);
        Ok(())
    }
}

fn error(error: tokenmill_policy::Error) -> wit::Error {
    match error {
        tokenmill_policy::Error::BadConfig(why) => wit::Error::BadConfig(why),
        tokenmill_policy::Error::Undecided(why) => wit::Error::Undecided(why),
    }
}

/// The host's view, of which each other column is fetched when it is first asked for.
struct View<'a> {
    host: &'a wit::View,
    batch: &'a Batch,
    requests: OnceCell<Vec<u64>>,
    tenants: OnceCell<Vec<u64>>,
    positions: OnceCell<Vec<u32>>,
    generated: OnceCell<Vec<u32>>,
    remaining: OnceCell<Vec<u32>>,
    scores: OnceCell<Vec<f32>>,
    seeds: OnceCell<Vec<u64>>,
    accepted: OnceCell<wit::Ragged>,
    assumed: OnceCell<wit::Ragged>,
}

impl<'a> View<'a> {
    fn new(host: &'a wit::View, batch: &'a Batch) -> Self {
        Self {
            host,
            batch,
            requests: OnceCell::new(),
            tenants: OnceCell::new(),
            positions: OnceCell::new(),
            generated: OnceCell::new(),
            remaining: OnceCell::new(),
            scores: OnceCell::new(),
            seeds: OnceCell::new(),
            accepted: OnceCell::new(),
            assumed: OnceCell::new(),
        }
    }
}

fn ragged(lists: &wit::Ragged) -> Ragged<'_> {
    Ragged { starts: &lists.starts, values: &lists.values }
}

impl sample::View for View<'_> {
    fn ids(&self) -> &[u64] {
        &self.batch.ids
    }

    fn requests(&self) -> &[u64] {
        self.requests.get_or_init(|| self.host.requests())
    }

    /// None is named: all rows that an instance sees are of one tenant.
    fn tenants(&self) -> &[u64] {
        self.tenants.get_or_init(|| vec![0; self.batch.ids.len()])
    }

    fn positions(&self) -> &[u32] {
        self.positions.get_or_init(|| self.host.positions())
    }

    fn generated(&self) -> &[u32] {
        self.generated.get_or_init(|| self.host.generated())
    }

    fn remaining(&self) -> &[u32] {
        self.remaining.get_or_init(|| self.host.remaining())
    }

    fn scores(&self) -> &[f32] {
        self.scores.get_or_init(|| self.host.scores())
    }

    fn seeds(&self) -> &[u64] {
        self.seeds.get_or_init(|| self.host.seeds())
    }

    fn accepted(&self) -> Ragged<'_> {
        ragged(self.accepted.get_or_init(|| self.host.accepted()))
    }

    fn assumed(&self) -> Ragged<'_> {
        ragged(self.assumed.get_or_init(|| self.host.assumed()))
    }

    fn finished(&self) -> &[u64] {
        &self.batch.finished
    }

    fn attribute(&self, row: usize, key: &str) -> Option<Cow<'_, str>> {
        self.host.attribute(row as u32, key).map(Cow::Owned)
    }

    fn stop_tokens(&self, row: usize) -> Cow<'_, [u32]> {
        Cow::Owned(self.host.stop_tokens(row as u32))
    }
}
