//! All unfinished requests: what their branches have in common.

use tokenmill_backend::abi;
use tokenmill_policy::Params;

use crate::event::{Event, Output, TokenLogprob, Usage};
use crate::handle::RequestId;

/// A request that was taken in and has not ended. What every token touches comes first and fills one
/// cache line.
#[repr(C, align(64))]
pub(crate) struct Live {
    pub(crate) output: Box<dyn Output>,
    pub(crate) stop: Stop,
    pub(crate) rest: Box<Particulars>,
    /// Tokens of all branches.
    pub(crate) generated: u32,
    /// Alternatives per token.
    pub(crate) logprobs: u32,
}

/// What of a request is not touched for every token.
pub(crate) struct Particulars {
    pub(crate) id: RequestId,
    /// It left the queue.
    pub(crate) started: bool,
    /// Its parameters as the device wants them; a row adds its seed.
    pub(crate) row: abi::Row,
    pub(crate) params: Params,
    pub(crate) min_tokens: u32,
    pub(crate) scores: Option<Scores>,
    /// Slots of its unfinished branches.
    pub(crate) branches: Vec<u32>,
    /// Slots of branches that begin when the prompt is computed.
    pub(crate) dormant: Vec<u32>,
    /// Seats held for branches that have not begun.
    pub(crate) seats: u32,
    /// Branches that its policy may still fork; those that end make room for others.
    pub(crate) forks: u32,
    /// Number of the next fork.
    pub(crate) next_branch: u32,
    pub(crate) salt: u64,
    pub(crate) arrived_us: u64,
    pub(crate) usage: Usage,
    /// Index of its sampling policy.
    pub(crate) sampler: Option<usize>,
    pub(crate) attributes: Vec<(String, String)>,
}

/// The prompt's log-probabilities, as far as known.
pub(crate) struct Scores {
    pub(crate) alternatives: u32,
    pub(crate) entries: Vec<TokenLogprob>,
}

impl Live {
    /// How a token is sampled depends on every token before it: there are penalties, or a policy that looks on.
    pub(crate) fn attends(&self) -> bool {
        self.rest.sampler.is_some() || self.rest.params.penalises()
    }

    pub(crate) fn attribute(&self, key: &str) -> Option<&str> {
        self.rest.attributes.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

/// Slots of requests.
#[derive(Default)]
pub(crate) struct Requests {
    /// Those that [attend](Live::attends).
    pub(crate) attentive: u32,
    slots: Vec<Option<Live>>,
    spare: Vec<u32>,
}

impl Requests {
    pub(crate) fn add(&mut self, live: Live) -> u32 {
        self.attentive += u32::from(live.attends());
        match self.spare.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(live);
                slot
            }
            None => {
                self.slots.push(Some(live));
                self.slots.len() as u32 - 1
            }
        }
    }

    pub(crate) fn get(&mut self, slot: u32) -> Option<&mut Live> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    pub(crate) fn peek(&self, slot: u32) -> Option<&Live> {
        self.slots.get(slot as usize)?.as_ref()
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<Live> {
        let live = self.slots.get_mut(slot as usize)?.take()?;
        self.attentive -= u32::from(live.attends());
        self.spare.push(slot);
        Some(live)
    }

    pub(crate) fn find(&self, id: RequestId) -> Option<u32> {
        let is = |live: &Option<Live>| live.as_ref().is_some_and(|live| live.rest.id == id);
        self.slots.iter().position(is).map(|slot| slot as u32)
    }

    /// Slots in use.
    pub(crate) fn live(&self) -> Vec<u32> {
        (0..self.slots.len() as u32).filter(|&slot| self.slots[slot as usize].is_some()).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.spare.len()
    }
}

/// Stop tokens; the first few without a pointer to follow.
pub(crate) struct Stop {
    first: [u32; 4],
    rest: Box<[u32]>,
}

impl Stop {
    pub(crate) fn new(tokens: &[u32]) -> Self {
        let mut first = [u32::MAX; 4];
        let (head, rest) = tokens.split_at(tokens.len().min(4));
        first[..head.len()].copy_from_slice(head);
        Self { first, rest: rest.into() }
    }

    #[inline]
    pub(crate) fn contains(&self, token: u32) -> bool {
        self.first.contains(&token) || self.rest.contains(&token)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.first.iter().copied().filter(|&token| token != u32::MAX).chain(self.rest.iter().copied())
    }
}

/// Tells of the prompt; whether the receiver is still there.
pub(crate) fn prompt(live: &mut Live, now_us: u64) -> bool {
    live.rest.usage.first_token_us = now_us.saturating_sub(live.rest.arrived_us);
    let logprobs = live.rest.scores.as_ref().map_or(&[][..], |scores| &scores.entries);
    live.output.deliver(Event::Prompt { cached_tokens: live.rest.usage.cached_tokens, logprobs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_tokens_beyond_the_first_four_count() {
        for n in 0..8 {
            let tokens: Vec<u32> = (10..10 + n).collect();
            let stop = Stop::new(&tokens);
            assert_eq!(stop.iter().collect::<Vec<_>>(), tokens);
            for token in 0..30 {
                assert_eq!(stop.contains(token), tokens.contains(&token));
            }
        }
    }
}
