//! Sampling of one row of logits; the order of operations stands in `tokenmill.h` at `tm_row`.
//!
//! Exact without a sort of the vocabulary: the maxima of groups of 64 logits bound the k-th largest from below, and
//! coarse sums of probability bound the nucleus, so only a few candidates are looked at one by one.

mod draw;
mod scan;
mod select;

use crate::isa::Isa;
use crate::memory::Slab;
use draw::{Candidate, uniform};
use scan::{Extremes, GROUP, Scan, SumExp, Weigh};
use tokenmill_backend_model::device::RowSampling;

/// Room for one row, one per thread.
#[derive(Default)]
pub(crate) struct Scratch {
    /// Logits after bias, mask and penalties.
    adjusted: Slab<f32>,
    /// Largest logit of every group.
    maxima: Vec<f32>,
    /// Values among which a rank or a sum is sought.
    values: Vec<f32>,
    candidates: Vec<Candidate>,
    /// Unnormalised probabilities, and their sums by block.
    weights: Slab<f32>,
    sums: Vec<f64>,
}

impl Scratch {
    pub(crate) fn new(vocab: usize) -> Scratch {
        Scratch {
            adjusted: Slab::zeroed(vocab),
            maxima: Vec::with_capacity(vocab.div_ceil(GROUP)),
            values: Vec::with_capacity(vocab),
            candidates: Vec::with_capacity(vocab),
            weights: Slab::zeroed(vocab),
            sums: Vec::with_capacity(vocab.div_ceil(draw::BLOCK)),
        }
    }

    pub(crate) fn fits(&self, vocab: usize) -> bool {
        self.adjusted.len() >= vocab
    }
}

/// Token and its log-probability under the raw logits; (-1, -inf) where no logit can be drawn: none is finite, or
/// one is NaN or +inf.
pub(crate) fn sample(isa: Isa, logits: &[f32], how: &RowSampling<'_>, scratch: &mut Scratch) -> (i32, f32) {
    const NONE: (i32, f32) = (-1, f32::NEG_INFINITY);
    let raw = isa.run(Scan { logits, maxima: &mut scratch.maxima });
    if raw.broken || raw.largest == f32::NEG_INFINITY {
        return NONE;
    }
    let token = match how.forced {
        Some(token) => Some(token as usize),
        None if !adjusts(how) => pick(isa, logits, raw, how, scratch),
        None => {
            let mut adjusted = std::mem::take(&mut scratch.adjusted);
            let row = &mut adjusted[..logits.len()];
            row.copy_from_slice(logits);
            adjust(row, how);
            let extremes = isa.run(Scan { logits: row, maxima: &mut scratch.maxima });
            let token = pick(isa, row, extremes, how, scratch);
            scratch.adjusted = adjusted;
            token
        }
    };
    let Some(token) = token else { return NONE };
    let total = isa.run(SumExp { logits, largest: raw.largest });
    match logits.get(token) {
        Some(&logit) => (token as i32, log_probability(logit, raw.largest, total)),
        None => NONE,
    }
}

fn log_probability(logit: f32, largest: f32, total: f64) -> f32 {
    (f64::from(logit) - f64::from(largest) - total.ln()) as f32
}

fn adjusts(how: &RowSampling<'_>) -> bool {
    !how.bias_token.is_empty() || !how.mask.is_empty() || !how.seen_token.is_empty()
}

fn adjust(logits: &mut [f32], how: &RowSampling<'_>) {
    for (&token, bias) in how.bias_token.iter().zip(how.bias_value) {
        logits[token as usize] += bias;
    }
    for (logits, &word) in logits.chunks_mut(32).zip(how.mask) {
        if word != u32::MAX {
            let banned = logits.iter_mut().enumerate().filter(|(bit, _)| word >> bit & 1 == 0);
            banned.for_each(|(_, l)| *l = f32::NEG_INFINITY);
        }
    }
    for (&token, &count) in how.seen_token.iter().zip(how.seen_count) {
        let l = &mut logits[token as usize];
        *l = if *l > 0.0 { *l / how.repetition } else { *l * how.repetition };
        *l -= how.frequency * count as f32 + if count > 0 { how.presence } else { 0.0 };
    }
}

/// The token; `scratch.maxima` belongs to `logits`.
fn pick(
    isa: Isa,
    logits: &[f32],
    extremes: Extremes,
    how: &RowSampling<'_>,
    scratch: &mut Scratch,
) -> Option<usize> {
    if extremes.broken || extremes.largest == f32::NEG_INFINITY {
        return None;
    }
    if how.temperature == 0.0 {
        return first_of(logits, &scratch.maxima, extremes.largest);
    }
    let largest = extremes.largest;
    let top_k = how.top_k as usize;
    if top_k > 0 && top_k < logits.len() {
        let least = select::kth_largest(logits, &scratch.maxima, top_k, &mut scratch.values);
        // A token of probability 0 would be kept and never drawn.
        scratch.candidates.clear();
        select::gather(logits, &scratch.maxima, least, |id, l| {
            scratch.candidates.push(Candidate { id, weight: ((l - largest) / how.temperature).exp() });
        });
        let total = scratch.candidates.iter().map(|c| f64::from(c.weight)).sum();
        return draw::among(scratch, total, how);
    }
    let weights = &mut scratch.weights[..logits.len()];
    let least = if how.top_p < 1.0 { 0.0 } else { how.min_p };
    let coarse = isa.run(Weigh {
        logits,
        largest,
        temperature: how.temperature,
        least,
        weights,
        sums: &mut scratch.sums,
    });
    if how.top_p >= 1.0 {
        return draw::in_order(weights, &scratch.sums, uniform(how.seed));
    }
    let total: f64 = scratch.sums.iter().sum();
    let least = coarse.least_weight_for(f64::from(how.top_p) * total);
    scratch.candidates.clear();
    let kept = weights.iter().enumerate().filter(|(_, w)| **w >= least);
    scratch.candidates.extend(kept.map(|(id, &weight)| Candidate { id: id as u32, weight }));
    draw::among(scratch, total, how)
}

/// Index of the first logit equal to `largest`.
fn first_of(logits: &[f32], maxima: &[f32], largest: f32) -> Option<usize> {
    let group = maxima.iter().position(|&m| m == largest)?;
    let first = group * GROUP;
    logits[first..].iter().position(|&l| l == largest).map(|i| first + i)
}

/// The `ids.len()` largest log-probabilities, falling, the lower id first on a tie.
pub(crate) fn top_k(isa: Isa, logits: &[f32], scratch: &mut Scratch, ids: &mut [u32], logprobs: &mut [f32]) {
    let k = ids.len().min(logits.len());
    if k == 0 {
        return;
    }
    let Extremes { largest, .. } = isa.run(Scan { logits, maxima: &mut scratch.maxima });
    let total = isa.run(SumExp { logits, largest });
    let least = select::kth_largest(logits, &scratch.maxima, k, &mut scratch.values);
    scratch.candidates.clear();
    select::gather(logits, &scratch.maxima, least, |id, weight| {
        scratch.candidates.push(Candidate { id, weight });
    });
    scratch.candidates.sort_unstable_by(|a, b| b.weight.total_cmp(&a.weight).then(a.id.cmp(&b.id)));
    for ((id, logprob), c) in ids.iter_mut().zip(logprobs).zip(&scratch.candidates) {
        *id = c.id;
        *logprob = log_probability(c.weight, largest, total);
    }
}
