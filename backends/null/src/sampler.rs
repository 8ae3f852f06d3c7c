//! Sampling of one row, in the order and with the definitions of `tm_row` in the header.

use tokenmill_backend_abi::Row;

use crate::validate::Parameters;
use crate::vocab::{Logits, Vocab};

/// Scratch for rows that need their whole distribution.
#[derive(Default)]
pub(crate) struct Sampler {
    logits: Vec<f32>,
    order: Vec<u32>,
    kept: Vec<f64>,
}

impl Sampler {
    /// The token of a row and its raw log-probability; -1 where there is none.
    pub(crate) fn sample(
        &mut self,
        vocab: &Vocab,
        logits: Logits,
        row: &Row,
        all: &Parameters<'_>,
    ) -> (i32, f32) {
        let token = match (row.forced, logits) {
            (-1, Logits::NotANumber) => None,
            (-1, _) if raw(row) && row.temperature == 0.0 => vocab.best(logits),
            (-1, _) if raw(row) && whole(row) && row.temperature == 1.0 => {
                vocab.draw(logits, uniform(row.seed))
            }
            (-1, _) => {
                vocab.write(logits, &mut self.logits);
                self.adjust(row, all);
                if row.temperature == 0.0 { self.largest() } else { self.draw(row) }
            }
            (forced, _) => Some(forced as u32),
        };
        match token {
            Some(token) => (token as i32, vocab.logprob(logits, token)),
            None => (-1, f32::NAN),
        }
    }

    /// Biases, mask, penalties.
    fn adjust(&mut self, row: &Row, all: &Parameters<'_>) {
        for i in row.bias as usize..(row.bias + row.n_bias) as usize {
            self.logits[all.bias_token[i] as usize] += all.bias_value[i];
        }
        if row.mask > 0 {
            let words = self.logits.len().div_ceil(32);
            let mask = &all.masks[(row.mask as usize - 1) * words..][..words];
            for (token, logit) in self.logits.iter_mut().enumerate() {
                if mask[token / 32] >> (token % 32) & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        for i in row.seen as usize..(row.seen + row.n_seen) as usize {
            let logit = &mut self.logits[all.seen_token[i] as usize];
            *logit = if *logit > 0.0 { *logit / row.repetition } else { *logit * row.repetition };
            let count = all.seen_count[i];
            *logit -= row.frequency * count as f32 + if count > 0 { row.presence } else { 0.0 };
        }
    }

    /// The lowest id among the largest.
    fn largest(&self) -> Option<u32> {
        let mut best = None;
        for (token, &logit) in self.logits.iter().enumerate() {
            if logit > best.map_or(f32::NEG_INFINITY, |(_, largest)| largest) {
                best = Some((token as u32, logit));
            }
        }
        best.map(|(token, _)| token)
    }

    fn draw(&mut self, row: &Row) -> Option<u32> {
        let largest = self.logits[self.largest()? as usize];
        let temperature = f64::from(row.temperature);
        let weight = |logit: f32| ((f64::from(logit) - f64::from(largest)) / temperature).exp();
        let logits = &self.logits;
        self.order.clear();
        self.order.extend((0..logits.len() as u32).filter(|&t| logits[t as usize] > f32::NEG_INFINITY));
        if !whole(row) {
            cut(&mut self.order, row, |t| logits[t as usize], weight);
            self.order.sort_unstable();
        }
        self.kept.clear();
        self.kept.extend(self.order.iter().map(|&t| weight(logits[t as usize])));
        let target = uniform(row.seed) * self.kept.iter().sum::<f64>();
        let mut sum = 0.0;
        let drawn = self.kept.iter().position(|weight| {
            sum += weight;
            sum > target
        });
        drawn.map(|i| self.order[i]).or_else(|| self.order.last().copied())
    }
}

/// Leaves what top_k, top_p and min_p keep, in any order.
fn cut(order: &mut Vec<u32>, row: &Row, logit: impl Fn(u32) -> f32, weight: impl Fn(f32) -> f64) {
    // Falling, the lower id first; what a step does not keep falls off the end.
    order.sort_unstable_by(|&a, &b| logit(b).total_cmp(&logit(a)).then(a.cmp(&b)));
    if row.top_k > 0 && (row.top_k as usize) < order.len() {
        let kth = logit(order[row.top_k as usize - 1]);
        order.truncate(order.partition_point(|&t| logit(t) >= kth));
    }
    if row.top_p < 1.0 {
        let target = f64::from(row.top_p) * order.iter().map(|&t| weight(logit(t))).sum::<f64>();
        let mut sum = 0.0;
        let enough = order.iter().position(|&t| {
            sum += weight(logit(t));
            sum >= target
        });
        order.truncate(enough.map_or(usize::MAX, |last| last + 1));
    }
    let least = f64::from(row.min_p);
    order.truncate(order.partition_point(|&t| weight(logit(t)) >= least));
}

/// Nothing changes the logits: the result is known without looking at all of them.
fn raw(row: &Row) -> bool {
    let penalised = row.n_seen > 0 && (row.repetition != 1.0 || row.presence != 0.0 || row.frequency != 0.0);
    row.n_bias == 0 && row.mask == 0 && !penalised
}

/// Nothing is cut off the distribution.
fn whole(row: &Row) -> bool {
    row.top_k == 0 && row.top_p >= 1.0 && row.min_p == 0.0
}

/// u in [0, 1): 24 bits of splitmix64.
fn uniform(seed: u64) -> f64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 40) as f64 / f64::from(1 << 24)
}
