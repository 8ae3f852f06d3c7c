//! Speculation: tokens guessed from a sequence's own text ride along in a step, and sampling verifies them.
//!
//! Each guess has a row, sampled with the seed of its position as if all guesses before it were right. A
//! row counts only while they were, so the tokens are those of the plain run. What a wrong guess left in
//! the KV cache lies beyond the sequence's computed tokens and is written over by the next step.
//!
//! A guess follows from the newest token, so an engine that drafts has one step in flight.

use crate::batch::{Row, Step};
use crate::engine::Engine;
use crate::sequences::Reference;

/// Tokens that must recur for what followed them to be a guess: the most that are looked for.
const LONGEST: usize = 3;

/// A row of a step that counts if the row before it counts and sampled this token.
pub(crate) struct Draft {
    row: u32,
    token: u32,
}

/// Prompt lookup (Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding): finds the longest n-gram of
/// 3 to 1 last tokens that occurs earlier, the latest of equals, and takes `most` tokens that followed it.
/// An occurrence that runs into the end goes on with its own guesses, as a text that repeats itself does.
fn look_up(tokens: &[u32], most: usize, guesses: &mut Vec<u32>) {
    let Some((&last, before)) = tokens.split_last() else { return };
    let (mut best, mut follows) = (0, tokens.len());
    for at in (0..before.len()).rev() {
        if before[at] == last {
            let pairs = before[..at].iter().rev().zip(before.iter().rev());
            let length = 1 + pairs.take(LONGEST - 1).take_while(|(a, b)| a == b).count();
            if length > best {
                (best, follows) = (length, at + 1);
            }
            if length == LONGEST {
                break;
            }
        }
    }
    if best > 0 {
        for at in follows..follows + most {
            let guess = tokens.get(at).copied().unwrap_or_else(|| guesses[at - tokens.len()]);
            guesses.push(guess);
        }
    }
}

impl Engine {
    /// Tokens, and as many rows, that the order leaves over for guesses.
    pub(crate) fn room_for_drafts(&self) -> u32 {
        let mut tokens = 0;
        for (&i, &n) in self.order.indices.iter().zip(&self.order.tokens) {
            // A prompt that forks or is scored takes whatever rows there are.
            if self.sequences.own[i as usize].special {
                return 0;
            }
            tokens += u64::from(n.min(self.sequences.pending[i as usize]));
        }
        let tokens = u64::from(self.config.max_batched_tokens).saturating_sub(tokens);
        tokens.min(u64::from(self.room.rows(0)).saturating_sub(self.order.indices.len() as u64)) as u32
    }

    /// Guesses what follows a sequence at place `k` of the order, all of whose `to` tokens are known, as
    /// far as there are blocks that nobody else may need.
    pub(crate) fn guess(&mut self, k: usize, i: usize, to: u32) {
        let own = self.sequences.own[i];
        let most = self.config.draft_tokens.min(self.room.drafts).min(own.limit - 1 - to);
        if !own.drafts || most == 0 {
            return;
        }
        let tokens = self.sequences.slots[own.slot as usize].tokens.all();
        debug_assert_eq!(tokens.len(), to as usize);
        look_up(tokens, most as usize, &mut self.guesses);
        let end = to + self.guesses.len() as u32;
        if end > own.covered {
            let more = self.pool.blocks_for(end - own.covered);
            let spare = more + self.room.reserve() <= self.pool.available();
            if !spare || !self.grow(k, i, end) {
                self.guesses.truncate((own.covered - to) as usize);
            }
        }
        self.room.drafts -= self.guesses.len() as u32;
    }

    /// A row for each guess of a sequence, after the one that decides position `at`, which is that of
    /// token `token` of the step.
    pub(crate) fn push_guesses(&mut self, step: &mut Step, sequence: Reference, token: u32, at: u32) {
        self.stats.drafts += u64::from(!self.guesses.is_empty());
        self.stats.draft_tokens += self.guesses.len() as u64;
        for (nth, &guess) in (1..).zip(&self.guesses) {
            let row = self.columns.push_row(token + nth);
            step.drafts.push(Draft { row, token: guess });
            step.rows.push(Row { sequence, at: at + nth });
        }
    }

    /// Moves sequences on by the guesses that were right, and takes the rows behind wrong ones from theirs.
    pub(crate) fn verify(&mut self, step: &mut Step) {
        for &Draft { row, token } in &step.drafts {
            let row = row as usize;
            let before = step.rows[row - 1].sequence;
            let sampled = step.tokens.get(row - 1).copied();
            if before == Reference::NOBODY || sampled != Some(token as i32) {
                step.rows[row].sequence = Reference::NOBODY;
                continue;
            }
            self.stats.accepted_tokens += 1;
            if let Some(sequence) = self.sequences.get(before) {
                let index = sequence.rest.index as usize;
                self.sequences.advance(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guesses(tokens: &[u32], most: usize) -> Vec<u32> {
        let mut guesses = Vec::new();
        look_up(tokens, most, &mut guesses);
        guesses
    }

    #[test]
    fn what_followed_the_longest_and_latest_recurrence_is_guessed() {
        assert_eq!(guesses(&[], 3), []);
        assert_eq!(guesses(&[1], 3), []);
        assert_eq!(guesses(&[1, 2, 3], 3), []);
        assert_eq!(guesses(&[7, 8, 9, 7], 2), [8, 9]);
        assert_eq!(guesses(&[7, 8, 7, 9, 7], 1), [9], "the latest");
        assert_eq!(guesses(&[5, 7, 8, 7, 9, 5, 7], 1), [8], "two are better than one");
        assert_eq!(guesses(&[4, 5, 7, 1, 5, 7, 2, 7, 3, 4, 5, 7], 1), [1], "three are better than two");
        assert_eq!(guesses(&[6, 4, 5, 7, 1, 4, 5, 7, 2, 6, 4, 5, 7], 1), [2], "more than three are as good");
    }

    #[test]
    fn a_repetition_goes_on() {
        assert_eq!(guesses(&[1, 2, 1, 2, 1], 5), [2, 1, 2, 1, 2]);
        assert_eq!(guesses(&[3, 3], 4), [3, 3, 3, 3]);
    }
}
