//! The filters on probabilities and the draw.

use super::{Scratch, select};
use tokenmill_backend_model::device::RowSampling;

/// Weights summed together.
pub(super) const BLOCK: usize = 1024;

/// A token that may be drawn, with its unnormalised probability.
#[derive(Clone, Copy)]
pub(super) struct Candidate {
    pub id: u32,
    pub weight: f32,
}

/// Where in [0, 1) a draw falls: one step of Vigna's splitmix64 from `seed`, its top 24 bits.
pub(super) fn uniform(seed: u64) -> f64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 40) as f64 / (1u64 << 24) as f64
}

/// Applies top_p (of `total`) and min_p to `scratch.candidates`, which are in id order, and draws from what is left.
pub(super) fn among(scratch: &mut Scratch, total: f64, how: &RowSampling<'_>) -> Option<usize> {
    let candidates = &mut scratch.candidates;
    if how.top_p < 1.0 && !candidates.is_empty() {
        scratch.values.clear();
        scratch.values.extend(candidates.iter().map(|c| c.weight));
        let (least, mut ties) = select::nucleus(&mut scratch.values, f64::from(how.top_p) * total);
        candidates.retain(|c| {
            let tie = c.weight == least && ties > 0;
            ties -= usize::from(tie);
            c.weight > least || tie
        });
    }
    candidates.retain(|c| c.weight >= how.min_p);
    let total: f64 = candidates.iter().map(|c| f64::from(c.weight)).sum();
    let aim = uniform(how.seed) * total;
    let mut sum = 0.0;
    let hit = candidates.iter().find(|c| {
        sum += f64::from(c.weight);
        sum > aim
    });
    hit.or(candidates.iter().rfind(|c| c.weight > 0.0)).map(|c| c.id as usize)
}

/// Draws from all `weights`; `sums` are those of its blocks.
pub(super) fn in_order(weights: &[f32], sums: &[f64], u: f64) -> Option<usize> {
    let aim = u * sums.iter().sum::<f64>();
    let mut sum = 0.0;
    for (block, part) in weights.chunks(BLOCK).zip(sums).enumerate() {
        if sum + part.1 > aim {
            let first = block * BLOCK;
            let mut last = None;
            for (i, &w) in part.0.iter().enumerate().filter(|(_, w)| **w > 0.0) {
                sum += f64::from(w);
                last = Some(first + i);
                if sum > aim {
                    break;
                }
            }
            // The block's own sum was rounded otherwise; its last token is the nearest.
            return last;
        }
        sum += part.1;
    }
    weights.iter().rposition(|w| *w > 0.0)
}
