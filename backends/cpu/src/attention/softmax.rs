//! Online softmax: the running maximum and total of one query row.

use super::tile::TILE;
use crate::math::exp;
use crate::rows::capped;
use crate::simd::{LANES, Simd};
use std::ops::Range;
use tokenmill_backend_model::device::Attention;

/// What one query row has seen so far, and which positions it may see.
#[derive(Clone, Copy)]
pub(super) struct RowState {
    pub first: usize,
    pub last: usize,
    pub largest: f32,
    pub total: f32,
}

const LANE_INDEX: [f32; LANES] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];

impl RowState {
    pub(super) const EMPTY: RowState = RowState { first: 0, last: 0, largest: f32::NEG_INFINITY, total: 0.0 };

    /// Turns the scores of one tile, which begins at position `start`, into weights; `vectors` were computed.
    /// Returns what earlier sums must be multiplied with.
    #[inline(always)]
    pub(super) fn visit<S: Simd>(
        &mut self,
        s: S,
        how: &Attention,
        start: usize,
        vectors: Range<usize>,
        scores: &mut [f32; TILE],
    ) -> f32 {
        let (scores, _) = scores.as_chunks_mut::<LANES>();
        let scores = &mut scores[vectors.clone()];
        let lowest = s.splat(f32::NEG_INFINITY);
        let mut largest = lowest;
        for (v, lanes) in vectors.zip(scores.iter_mut()) {
            let mut x = s.mul(s.load(lanes), s.splat(how.scale));
            if let Some(cap) = how.softcap {
                x = capped(s, x, cap);
            }
            let from = start + v * LANES;
            if from < self.first || from + LANES > self.last + 1 {
                let index = s.load(&LANE_INDEX);
                x = s.select_lt(index, s.splat(self.first as f32 - from as f32), lowest, x);
                x = s.select_lt(s.splat(self.last as f32 - from as f32), index, lowest, x);
            }
            largest = s.max(largest, x);
            s.store(x, lanes);
        }
        let before = self.largest;
        self.largest = before.max(s.max_lane(largest));
        if self.largest == f32::NEG_INFINITY {
            scores.iter_mut().for_each(|lanes| *lanes = [0.0; LANES]);
            return 1.0;
        }
        let mut sum = s.splat(0.0);
        for lanes in scores {
            let p = exp(s, s.sub(s.load(lanes), s.splat(self.largest)));
            sum = s.add(sum, p);
            s.store(p, lanes);
        }
        let keep = if before == self.largest { 1.0 } else { exp_one(s, before - self.largest) };
        self.total = self.total * keep + s.sum(sum);
        keep
    }
}

#[inline(always)]
fn exp_one<S: Simd>(s: S, x: f32) -> f32 {
    let mut out = [0.0; LANES];
    s.store(exp(s, s.splat(x)), &mut out);
    out[0]
}
