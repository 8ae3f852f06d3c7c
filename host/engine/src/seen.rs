//! The tokens that penalties of one sequence apply to, kept as the columns that the device wants.

use std::collections::HashMap;

/// Tokens in order of first sight, with how often each was generated (0: only in the prompt).
#[derive(Clone, Default)]
pub(crate) struct Seen {
    pub(crate) tokens: Vec<u32>,
    pub(crate) counts: Vec<u32>,
    places: HashMap<u32, u32>,
}

impl Seen {
    /// Room for as many tokens as can come.
    pub(crate) fn with_prompt(prompt: &[u32], most: usize) -> Self {
        let mut seen = Self {
            tokens: Vec::with_capacity(most),
            counts: Vec::with_capacity(most),
            places: HashMap::with_capacity(most),
        };
        for &token in prompt {
            seen.place(token);
        }
        seen
    }

    pub(crate) fn add(&mut self, token: u32) {
        let place = self.place(token);
        self.counts[place as usize] += 1;
    }

    fn place(&mut self, token: u32) -> u32 {
        *self.places.entry(token).or_insert_with(|| {
            self.tokens.push(token);
            self.counts.push(0);
            self.tokens.len() as u32 - 1
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_output_and_lists_the_prompt() {
        let mut seen = Seen::with_prompt(&[5, 7, 5], 8);
        seen.add(7);
        seen.add(9);
        seen.add(9);
        assert_eq!((seen.tokens, seen.counts), (vec![5, 7, 9], vec![0, 1, 2]));
    }
}
