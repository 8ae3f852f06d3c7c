//! The branches of one request: how they score, and who is given up.

use std::collections::{BTreeMap, BTreeSet};

use crate::settings::Settings;

pub(crate) struct Race {
    settings: Settings,
    /// Tokens and sum of log-probabilities of those that still run, by sequence.
    running: BTreeMap<u64, (u32, f32)>,
    /// Those that are to end when they next have a row.
    given_up: BTreeSet<u64>,
    /// Tokens that all must have before the next are given up.
    due: u32,
    /// Whether all branches were begun.
    begun: bool,
}

impl Race {
    pub(crate) fn new(settings: Settings) -> Self {
        let due = settings.every;
        Self { settings, running: BTreeMap::new(), given_up: BTreeSet::new(), due, begun: false }
    }

    pub(crate) fn temperature(&self) -> f32 {
        self.settings.temperature
    }

    /// A branch has a row in this step.
    pub(crate) fn see(&mut self, id: u64, generated: u32, score: f32) {
        self.begun |= generated > 0; // Else met in the middle, after a restart.
        if !self.given_up.contains(&id) {
            self.running.insert(id, (generated, score));
        }
    }

    pub(crate) fn forget(&mut self, finished: &[u64]) {
        for id in finished {
            self.running.remove(id);
            self.given_up.remove(id);
        }
    }

    /// Branches that are missing at the start; none from then on.
    pub(crate) fn missing(&self) -> u32 {
        if self.begun { 0 } else { self.settings.best_of.saturating_sub(self.running.len() as u32) }
    }

    pub(crate) fn begin(&mut self) {
        self.begun = true;
    }

    /// Gives up the worst if all are far enough. A branch that has no row in this step is waited for.
    pub(crate) fn judge(&mut self) {
        if self.running.is_empty() || self.running.values().any(|&(generated, _)| generated < self.due) {
            return;
        }
        self.due = self.due.saturating_mul(2);
        let mean = |&(generated, score): &(u32, f32)| score / generated as f32;
        let mut order: Vec<(f32, u64)> = self.running.iter().map(|(&id, one)| (mean(one), id)).collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let rejected = (order.len() as f32 * self.settings.reject) as usize;
        let left = (order.len() - rejected).max(self.settings.keep as usize).min(order.len());
        for (_, id) in &order[left..] {
            self.running.remove(id);
            self.given_up.insert(*id);
        }
    }

    pub(crate) fn gave_up(&self, id: u64) -> bool {
        self.given_up.contains(&id)
    }
}
