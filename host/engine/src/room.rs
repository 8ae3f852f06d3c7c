//! What a step and the pool have room for.

use tokenmill_policy::schedule::Order;

use crate::batch::Step;
use crate::config::Config;

/// Limits, and what the step being placed has left of them.
pub(crate) struct Room {
    max_seqs: u32,
    max_tokens: u32,
    max_rows: u32,
    /// Blocks of the longest sequence.
    pub(crate) max_blocks: u32,
    pub(crate) block_shift: u32,
    /// Sequences that hold KV, and branches that will when their prompt is computed.
    pub(crate) seats: u32,
    /// Tokens that the step can still take.
    pub(crate) tokens: u32,
    /// Of them, those that may be guesses.
    pub(crate) drafts: u32,
    /// Nobody else starts in this step: the next in order could not.
    pub(crate) blocked: bool,
    /// Who could not start, and how many blocks were available then.
    pub(crate) tried: Option<(u64, u32)>,
    pub(crate) in_flight: u32,
    epochs: u32,
    /// By index: the order that lists it.
    marks: Vec<u32>,
    order: u32,
    /// The step that was placed and not yet submitted.
    pub(crate) placed: Option<Step>,
}

impl Room {
    pub(crate) fn new(config: &Config, max_rows: u32, block_tokens: u32) -> Self {
        Self {
            max_seqs: config.max_seqs,
            max_tokens: config.max_batched_tokens,
            max_rows,
            max_blocks: config.max_model_len.div_ceil(block_tokens),
            block_shift: block_tokens.trailing_zeros(),
            seats: 0,
            tokens: 0,
            drafts: 0,
            blocked: false,
            tried: None,
            in_flight: 0,
            epochs: 0,
            marks: Vec::new(),
            order: 0,
            placed: None,
        }
    }

    pub(crate) fn new_step(&mut self, in_flight: u32) {
        self.tokens = self.max_tokens;
        self.blocked = false;
        self.in_flight = in_flight;
    }

    pub(crate) fn rows(&self, taken: u32) -> u32 {
        self.max_rows - taken
    }

    pub(crate) fn has_seats(&self, seats: u32) -> bool {
        self.seats + seats <= self.max_seqs
    }

    /// A number that no block table had before.
    pub(crate) fn epoch(&mut self) -> u32 {
        self.epochs = self.epochs.wrapping_add(1);
        self.epochs
    }

    /// Blocks to leave free when a sequence starts: one for each that runs, so that the newcomer is not
    /// preempted again as soon as they grow.
    pub(crate) fn reserve(&self) -> u32 {
        self.seats
    }

    /// Whether an order names known sequences only, each once; marks those that it runs.
    pub(crate) fn mark(&mut self, order: &Order, len: usize) -> bool {
        self.order = self.order.wrapping_add(1);
        self.marks.resize(len, self.order.wrapping_sub(1));
        let once = |marks: &mut Vec<u32>, stamp, i: &u32| {
            marks.get_mut(*i as usize).is_some_and(|mark| std::mem::replace(mark, stamp) != stamp)
        };
        order.indices.len() == order.tokens.len()
            && order.indices.iter().all(|i| once(&mut self.marks, self.order, i))
            && order.rejected.iter().all(|i| once(&mut self.marks, self.order, i))
    }

    /// Whether the order names a sequence.
    pub(crate) fn listed(&self, index: usize) -> bool {
        self.marks.get(index) == Some(&self.order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_names_each_known_sequence_once() {
        let mut room = Room::new(&Config::default(), 8, 16);
        let order = |indices: &[u32], tokens: &[u32], rejected: &[u32]| Order {
            indices: indices.to_vec(),
            tokens: tokens.to_vec(),
            rejected: rejected.to_vec(),
        };
        assert!(room.mark(&order(&[2, 0], &[1, 1], &[1]), 3));
        assert!(!room.mark(&order(&[0, 0], &[1, 1], &[]), 3), "twice");
        assert!(!room.mark(&order(&[0], &[1], &[0]), 3), "run and rejected");
        assert!(!room.mark(&order(&[3], &[1], &[]), 3), "unknown");
        assert!(!room.mark(&order(&[], &[], &[3]), 3), "unknown");
        assert!(!room.mark(&order(&[0, 1], &[1], &[]), 3), "columns of different lengths");
        assert!(room.mark(&order(&[1], &[1], &[]), 3));
        assert!(room.listed(1) && !room.listed(0) && !room.listed(7));
    }
}
