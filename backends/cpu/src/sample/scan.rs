//! Passes over a whole row of logits.

use super::draw::BLOCK;
use crate::isa::Kernel;
use crate::math::exp;
use crate::simd::{LANES, Simd};

/// Logits that share one maximum.
pub(super) const GROUP: usize = 64;

#[derive(Clone, Copy)]
pub(super) struct Extremes {
    pub largest: f32,
    /// A NaN or +inf was seen.
    pub broken: bool,
}

/// Maximum of the row and of every group.
pub(super) struct Scan<'a> {
    pub logits: &'a [f32],
    pub maxima: &'a mut Vec<f32>,
}

impl Kernel for Scan<'_> {
    type Out = Extremes;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Extremes {
        let lowest = f32::NEG_INFINITY;
        self.maxima.clear();
        let mut broken = s.splat(0.0);
        let mut largest = s.splat(lowest);
        for group in self.logits.chunks(GROUP) {
            let mut most = s.splat(lowest);
            let (full, rest) = group.as_chunks::<LANES>();
            let rest = (!rest.is_empty()).then(|| filled(rest));
            for x in full.iter().chain(&rest) {
                let x = s.load(x);
                most = s.max(x, most);
                broken = s.max(broken, s.select_lt(x, s.splat(f32::INFINITY), s.splat(0.0), s.splat(1.0)));
            }
            largest = s.max(largest, most);
            self.maxima.push(s.max_lane(most));
        }
        Extremes { largest: s.max_lane(largest), broken: s.max_lane(broken) > 0.0 }
    }
}

/// `Σ exp(logit - largest)`.
pub(super) struct SumExp<'a> {
    pub logits: &'a [f32],
    pub largest: f32,
}

impl Kernel for SumExp<'_> {
    type Out = f64;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let largest = s.splat(self.largest);
        let mut total = 0.0;
        for block in self.logits.chunks(BLOCK) {
            let mut sum = s.splat(0.0);
            let (full, rest) = block.as_chunks::<LANES>();
            for x in full {
                sum = s.add(sum, exp(s, s.sub(s.load(x), largest)));
            }
            if !rest.is_empty() {
                sum = s.add(sum, exp(s, s.sub(s.load_part(rest, f32::NEG_INFINITY), largest)));
            }
            total += f64::from(s.sum(sum));
        }
        total
    }
}

/// Weights for which the sum of all that reach them is taken: e^-1, e^-2, e^-4, e^-8.
const STEPS: [f32; 4] = [0.367_879_45, 0.135_335_28, 0.018_315_64, 3.354_626_3e-4];

/// Sum of the weights that reach each of `STEPS`.
pub(super) struct Coarse([f64; STEPS.len()]);

impl Coarse {
    /// A weight such that those which reach it add up to at least `sum`; 0 if that needs them all.
    pub(super) fn least_weight_for(&self, sum: f64) -> f32 {
        // Slightly more than asked for, since these sums are rounded otherwise than the exact one to come.
        let enough = STEPS.iter().zip(self.0).find(|(_, have)| *have >= sum * (1.0 + 1e-5));
        enough.map_or(0.0, |(weight, _)| *weight)
    }
}

/// `weights = exp((logit - largest) / temperature)`, 0 where that is below `least`, and their sums by block.
pub(super) struct Weigh<'a> {
    pub logits: &'a [f32],
    pub largest: f32,
    pub temperature: f32,
    pub least: f32,
    pub weights: &'a mut [f32],
    pub sums: &'a mut Vec<f64>,
}

impl Kernel for Weigh<'_> {
    type Out = Coarse;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Coarse {
        let (largest, temperature) = (s.splat(self.largest), s.splat(self.temperature));
        let (least, zero) = (s.splat(self.least), s.splat(0.0));
        let mut coarse = [0.0; STEPS.len()];
        self.sums.clear();
        for (logits, weights) in self.logits.chunks(BLOCK).zip(self.weights.chunks_mut(BLOCK)) {
            let mut sum = zero;
            let mut reach = [zero; STEPS.len()];
            for (x, out) in logits.chunks(LANES).zip(weights.chunks_mut(LANES)) {
                let x = s.load(&filled(x));
                let w = exp(s, s.div(s.sub(x, largest), temperature));
                let w = s.select_lt(w, least, zero, w);
                sum = s.add(sum, w);
                for (reach, step) in reach.iter_mut().zip(STEPS) {
                    *reach = s.add(*reach, s.select_lt(w, s.splat(step), zero, w));
                }
                match <&mut [f32; LANES]>::try_from(&mut *out) {
                    Ok(out) => s.store(w, out),
                    Err(_) => s.store_part(w, out),
                }
            }
            self.sums.push(f64::from(s.sum(sum)));
            for (coarse, reach) in coarse.iter_mut().zip(reach) {
                *coarse += f64::from(s.sum(reach));
            }
        }
        Coarse(coarse)
    }
}

/// Up to 16 logits, -inf in the rest.
#[inline(always)]
fn filled(logits: &[f32]) -> [f32; LANES] {
    let mut full = [f32::NEG_INFINITY; LANES];
    full[..logits.len()].copy_from_slice(logits);
    full
}
