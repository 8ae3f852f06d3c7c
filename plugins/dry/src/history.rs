//! The tokens of one sequence, and what would repeat them.

use std::collections::BTreeMap;

use crate::settings::{Settings, Vocabulary};

/// Longer matches count as this long: the penalty is out of proportion long before.
const LONGEST: usize = 50;

pub(crate) struct History {
    settings: Settings,
    last_tokens: Vec<u32>,
    tokens: Vec<u32>,
    /// Whether each of them breaks a sequence.
    breaks: Vec<bool>,
}

impl History {
    pub(crate) fn new(settings: Settings, vocabulary: &Vocabulary) -> Self {
        let last_tokens = vocabulary.last_tokens(&settings.sequence_breakers);
        Self { settings, last_tokens, tokens: Vec::new(), breaks: Vec::new() }
    }

    /// Breakers by id, for tests.
    #[cfg(test)]
    pub(crate) fn set_last_tokens(&mut self, tokens: &[u32]) {
        self.last_tokens = tokens.to_vec();
    }

    pub(crate) fn clear(&mut self) {
        self.tokens.clear();
        self.breaks.clear();
    }

    pub(crate) fn extend(&mut self, tokens: &[u32], vocabulary: &Vocabulary) {
        self.tokens.extend_from_slice(tokens);
        let breakers = &self.settings.sequence_breakers;
        let breaks = |token: &u32| {
            self.last_tokens.contains(token) || breakers.iter().any(|text| vocabulary.contains(*token, text))
        };
        self.breaks.extend(tokens.iter().map(breaks));
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
