//! The tokens of one sequence, and what would repeat them.

use std::collections::BTreeMap;

use crate::settings::{Breakers, Settings};

/// Longer matches count as this long: the penalty is out of proportion long before.
const LONGEST: usize = 50;

pub(crate) struct History {
    settings: Settings,
    breakers: Breakers,
    tokens: Vec<u32>,
    /// Whether each of them breaks a sequence.
    breaks: Vec<bool>,
}

impl History {
    pub(crate) fn new(settings: Settings, breakers: Breakers) -> Self {
        Self { settings, breakers, tokens: Vec::new(), breaks: Vec::new() }
    }

    pub(crate) fn clear(&mut self) {
        self.tokens.clear();
        self.breaks.clear();
    }

    pub(crate) fn extend(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
        self.breaks.extend(tokens.iter().map(|token| self.breakers.binary_search(token).is_ok()));
    }

    /// Tokens that would continue a repetition, and by how much their logits are to fall.
    pub(crate) fn penalties(&self) -> BTreeMap<u32, f32> {
        let Settings { multiplier, base, allowed_length, penalty_last_n, .. } = self.settings;
        let looked_at = if penalty_last_n > 0 { penalty_last_n as usize } else { usize::MAX };
        let from = self.tokens.len().saturating_sub(looked_at);
        let (tokens, breaks) = (&self.tokens[from..], &self.breaks[from..]);
        let mut lengths = BTreeMap::new();
        let Some((last, before)) = tokens.split_last() else { return BTreeMap::new() };
        if multiplier == 0.0 || breaks[before.len()] {
            return BTreeMap::new();
        }
        for at in (0..before.len()).filter(|&at| before[at] == *last && !breaks[at + 1]) {
            let longest = lengths.entry(tokens[at + 1]).or_insert(0);
            *longest = (*longest).max(matching(tokens, breaks, at));
        }
        let penalty = |length: usize| {
            let over = length.checked_sub(allowed_length as usize)?;
            Some(multiplier * libm::powf(base, over as f32))
        };
        lengths.into_iter().filter_map(|(token, length)| Some((token, penalty(length)?))).collect()
    }
}

/// How many tokens up to and with `at` are as those up to the end; the one at `at` is.
fn matching(tokens: &[u32], breaks: &[bool], at: usize) -> usize {
    let end = tokens.len() - 1;
    let most = LONGEST.min(at + 1);
    let same = |&back: &usize| tokens[at - back] == tokens[end - back] && !breaks[end - back];
    1 + (1..most).take_while(same).count()
}
