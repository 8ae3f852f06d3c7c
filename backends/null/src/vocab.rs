//! The logits: one fixed table, turned by an amount that the prefix decides.
//!
//! Token t of a row has the logit `table[(t + shift) mod vocab]`. As every row has the same values in another
//! order, the largest is known at once, log Σ exp is a constant, and the k largest are a stored order.

use crate::kv::mix;

/// Above it two neighbouring logits would round to the same f32.
pub(crate) const MAX: u32 = 1 << 19;

/// How likely tokens are: Zipf's law, close to what a language model gives. The largest logit is `TOP`.
const ZIPF: f64 = 1.2;
const TOP: f64 = 6.0;

pub(crate) struct Vocab {
    /// vocab entries; the largest is entry 0.
    table: Vec<f32>,
    /// Entries of the table, largest logit first.
    order: Vec<u32>,
    /// log Σ exp of the table.
    log_sum: f64,
    /// vocab + 1 entries: Σ exp of the table before each entry, and of all.
    sums: Vec<f64>,
}

/// The logits of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logits {
    Turned { shift: u32 },
    NotANumber,
}

impl Vocab {
    pub(crate) fn new(vocab: u32) -> Self {
        let mut order: Vec<u32> = (0..vocab).collect();
        // Entry 0 stays the largest; the others are in an order that looks random.
        order[1..].sort_by_key(|&entry| mix(0, entry));
        let mut table = vec![0.0; vocab as usize];
        for (nth, &entry) in order.iter().enumerate() {
            table[entry as usize] = (TOP - ZIPF * (1.0 + nth as f64).ln()) as f32;
        }
        let mut sums = vec![0.0];
        let mut sum = 0.0;
        sums.extend(table.iter().map(|&logit| {
            sum += f64::from(logit).exp();
            sum
        }));
        Self { table, order, log_sum: sum.ln(), sums }
    }

    pub(crate) fn len(&self) -> u32 {
        self.table.len() as u32
    }

    /// The row whose most likely token is `token`.
    pub(crate) fn favouring(&self, token: u32) -> Logits {
        Logits::Turned { shift: if token == 0 { 0 } else { self.len() - token } }
    }

    /// The token with the largest logit; none if they are not numbers.
    pub(crate) fn best(&self, logits: Logits) -> Option<u32> {
        match logits {
            Logits::Turned { shift } => Some(if shift == 0 { 0 } else { self.len() - shift }),
            Logits::NotANumber => None,
        }
    }

    /// The first token, in id order, at which the cumulative probability exceeds `u`.
    pub(crate) fn draw(&self, logits: Logits, u: f64) -> Option<u32> {
        let Logits::Turned { shift } = logits else { return None };
        let all = self.sums[self.table.len()];
        // Token 0 stands at entry `shift`; past the last entry the tokens go on at entry 0.
        let target = u * all + self.sums[shift as usize];
        let target = if target < all { target } else { target - all };
        let entry = self.sums.partition_point(|&sum| sum <= target) as u32 - 1;
        Some((entry + self.len() - shift) % self.len())
    }

    /// log softmax of the row at `token`.
    pub(crate) fn logprob(&self, logits: Logits, token: u32) -> f32 {
        match logits {
            Logits::Turned { shift } => {
                let entry =
                    if token < self.len() - shift { token + shift } else { token + shift - self.len() };
                (f64::from(self.table[entry as usize]) - self.log_sum) as f32
            }
            Logits::NotANumber => f32::NAN,
        }
    }

    /// All of them, in id order.
    pub(crate) fn write(&self, logits: Logits, out: &mut Vec<f32>) {
        out.clear();
        match logits {
            Logits::Turned { shift } => {
                let (head, tail) = self.table.split_at(shift as usize);
                out.extend_from_slice(tail);
                out.extend_from_slice(head);
            }
            Logits::NotANumber => out.resize(self.table.len(), f32::NAN),
        }
    }

    /// The token with the nth largest logit.
    pub(crate) fn nth(&self, logits: Logits, nth: u32) -> u32 {
        match logits {
            Logits::Turned { shift } => (self.order[nth as usize] + self.len() - shift) % self.len(),
            Logits::NotANumber => nth,
        }
    }
}
