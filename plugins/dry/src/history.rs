//! The tokens of one sequence, and what would repeat them.

use tokenmill_plugin_common::Numbers;

use crate::settings::{Breakers, Settings};

/// Longer matches count as this long: the penalty is out of proportion long before.
const LONGEST: usize = 50;

pub(crate) struct History {
    settings: Settings,
    breakers: Breakers,
    tokens: Vec<u32>,
    /// Whether each of them breaks a sequence.
    breaks: Vec<bool>,
    /// One more than where each of them was before; 0: nowhere. So a step visits only the places of one token.
    before: Vec<u32>,
    /// One more than where a token is last.
    last: Numbers<u32, u32>,
}

impl History {
    pub(crate) fn new(settings: Settings, breakers: Breakers) -> Self {
        let (tokens, breaks, before) = (Vec::new(), Vec::new(), Vec::new());
        Self { settings, breakers, tokens, breaks, before, last: Numbers::default() }
    }

    pub(crate) fn clear(&mut self) {
        self.tokens.clear();
        self.breaks.clear();
        self.before.clear();
        self.last.clear();
    }

    pub(crate) fn extend(&mut self, tokens: &[u32]) {
        for &token in tokens {
            self.tokens.push(token);
            self.breaks.push(self.breakers.binary_search(&token).is_ok());
            let before = self.last.insert(token, self.tokens.len() as u32);
            self.before.push(before.unwrap_or_default());
        }
    }

    /// Tokens that would continue a repetition, in order, and by how much their logits are to fall.
    pub(crate) fn penalties(&self) -> Vec<(u32, f32)> {
        let Settings { multiplier, base, allowed_length, penalty_last_n, .. } = self.settings;
        let looked_at = if penalty_last_n > 0 { penalty_last_n as usize } else { usize::MAX };
        let from = self.tokens.len().saturating_sub(looked_at);
        if multiplier == 0.0 || self.breaks.last() != Some(&false) {
            return Vec::new();
        }
        let place = |one_more: u32| (one_more as usize).checked_sub(1).filter(|&at| at >= from);
        let mut matches = Vec::new();
        let mut next = self.before.last().copied().and_then(place);
        while let Some(at) = next {
            let length = if self.breaks[at + 1] { 0 } else { self.matching(from, at) };
            if let Some(over) = length.checked_sub(allowed_length as usize) {
                matches.push((self.tokens[at + 1], over));
            }
            next = place(self.before[at]);
        }
        matches.sort_unstable();
        // Of each token the longest, which now comes last.
        let longest = matches.chunk_by(|one, next| one.0 == next.0).filter_map(<[_]>::last);
        longest.map(|&(token, over)| (token, multiplier * libm::powf(base, over as f32))).collect()
    }

    /// How many tokens from `from` up to and with `at` are as those up to the end; the one at `at` is.
    fn matching(&self, from: usize, at: usize) -> usize {
        let Self { tokens, breaks, .. } = self;
        let end = tokens.len() - 1;
        let most = LONGEST.min(at + 1 - from);
        let same = |&back: &usize| tokens[at - back] == tokens[end - back] && !breaks[end - back];
        1 + (1..most).take_while(same).count()
    }
}
