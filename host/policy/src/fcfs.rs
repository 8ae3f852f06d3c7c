//! First come, first served.

use crate::Error;
use crate::schedule::{Order, Scheduler, View};

/// The built-in scheduler. Every decoding sequence gets its token; prompts share the rest of the budget
/// in order of arrival, each at most half of what is left while others wait behind it, so that a long
/// prompt holds up neither. The order of arrival also decides who is preempted: the newest.
#[derive(Default)]
pub struct Fcfs {
    /// Indices of prompts, and what each gets.
    prompts: Vec<u32>,
    shares: Vec<u32>,
}

/// No share is smaller than this part of the budget, unless less is pending or left: tiny chunks waste a step.
const LEAST: u32 = 8;

impl Scheduler for Fcfs {
    fn plan(&mut self, view: &dyn View, order: &mut Order) -> Result<(), Error> {
        let decoding = self.find_prompts(view);
        self.share(view, view.token_budget().saturating_sub(decoding));
        let mut prompts = self.prompts.iter().zip(&self.shares).peekable();
        let (pendings, residents) = (view.pending(), view.resident());
        order.indices.reserve(pendings.len());
        order.tokens.reserve(pendings.len());
        for (i, (&pending, &resident)) in pendings.iter().zip(residents).enumerate() {
            let (i, resident) = (i as u32, resident > 0);
            let tokens = match prompts.next_if(|(prompt, _)| **prompt == i) {
                Some((_, &share)) => share,
                None => u32::from(pending == 1 && resident),
            };
            // A prompt that gets nothing now keeps its place all the same.
            if tokens > 0 || (resident && pending > 0) {
                order.indices.push(i);
                order.tokens.push(tokens);
            }
        }
        Ok(())
    }
}

impl Fcfs {
    /// Lists the sequences that have more than one token to compute, or could start; counts the others.
    fn find_prompts(&mut self, view: &dyn View) -> u32 {
        self.prompts.clear();
        let mut decoding = 0;
        let mut starts = view.free_seqs();
        for (i, (&pending, &resident)) in view.pending().iter().zip(view.resident()).enumerate() {
            if resident > 0 && pending <= 1 {
                decoding += pending;
            } else if pending > 0 && (resident > 0 || starts > 0) {
                starts -= u32::from(resident == 0);
                self.prompts.push(i as u32);
            }
        }
        decoding
    }

    fn share(&mut self, view: &dyn View, mut left: u32) {
        let (pending, budget) = (view.pending(), view.token_budget());
        self.shares.clear();
        self.shares.resize(self.prompts.len(), 0);
        let last = self.prompts.len().saturating_sub(1);
        // What later prompts leave over goes to the earlier ones.
        for all in [false, true] {
            for (nth, (&i, share)) in self.prompts.iter().zip(&mut self.shares).enumerate() {
                if left == 0 {
                    return;
                }
                let most =
                    if all || nth == last { left } else { left.div_ceil(2).max(budget / LEAST).min(left) };
                let more = (pending[i as usize] - *share).min(most);
                *share += more;
                left -= more;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Columns;

    fn plan(budget: u32, free_seqs: u32, pending: &[u32], resident: &[u32]) -> Vec<(u32, u32)> {
        let view = Columns { token_budget: budget, free_seqs, pending, resident, ..Columns::default() };
        let mut order = Order::default();
        assert_eq!(Fcfs::default().plan(&view, &mut order), Ok(()));
        order.indices.into_iter().zip(order.tokens).collect()
    }

    #[test]
    fn decoding_sequences_come_before_prompts_whatever_the_order() {
        assert_eq!(plan(10, 9, &[50, 1, 1, 0], &[100, 7, 9, 4]), [(0, 8), (1, 1), (2, 1)]);
        assert_eq!(plan(2, 9, &[50, 1, 1], &[100, 7, 9]), [(0, 0), (1, 1), (2, 1)]);
    }

    #[test]
    fn a_long_prompt_leaves_half_to_those_behind_it() {
        assert_eq!(plan(512, 9, &[100_000, 30, 30], &[0, 0, 0]), [(0, 452), (1, 30), (2, 30)]);
        assert_eq!(plan(512, 9, &[100_000, 100_000, 30], &[5, 5, 0]), [(0, 354), (1, 128), (2, 30)]);
    }

    #[test]
    fn the_budget_is_used_and_not_exceeded() {
        assert_eq!(plan(512, 9, &[100_000, 100_000], &[0, 0]), [(0, 256), (1, 256)]);
        assert_eq!(plan(100, 9, &[60, 60, 60], &[0, 0, 0]), [(0, 50), (1, 25), (2, 25)]);
    }

    #[test]
    fn no_more_start_than_there_are_seats() {
        assert_eq!(plan(512, 1, &[20, 20, 20], &[7, 0, 0]), [(0, 20), (1, 20)]);
    }

    #[test]
    fn a_prompt_of_one_token_can_start() {
        assert_eq!(plan(8, 1, &[1], &[0]), [(0, 1)]);
    }
}
