//! What the header defines sampling to be, computed from raw logits in f64, with no regard to speed.

use tokenmill_backend::Sampling;
use tokenmill_backend::abi::Row;

/// How far f32 sums over a vocabulary may be from these.
const SLACK: f64 = 2e-4;

/// Biases, mask and penalties: in f32, as the header says, so that ties are ties here too.
pub(crate) fn adjusted(logits: &[f32], row: &Row, all: &Sampling<'_>) -> Vec<f64> {
    let mut adjusted = logits.to_vec();
    for i in row.bias as usize..(row.bias + row.n_bias) as usize {
        adjusted[all.bias_token[i] as usize] += all.bias_value[i];
    }
    if row.mask > 0 {
        let words = logits.len().div_ceil(32);
        let mask = &all.masks[(row.mask as usize - 1) * words..];
        for (token, logit) in adjusted.iter_mut().enumerate() {
            if (mask[token / 32] >> (token % 32)) & 1 == 0 {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
    for i in row.seen as usize..(row.seen + row.n_seen) as usize {
        let logit = &mut adjusted[all.seen_token[i] as usize];
        *logit = if *logit > 0.0 { *logit / row.repetition } else { *logit * row.repetition };
        let count = all.seen_count[i];
        *logit -= row.frequency * count as f32 + if count > 0 { row.presence } else { 0.0 };
    }
    adjusted.into_iter().map(f64::from).collect()
}

/// log softmax at `token`.
pub(crate) fn logprob(logits: &[f32], token: usize) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
    f64::from(logits[token]) - largest - sum.ln()
}

/// Whether a greedy row may give `token`: no logit is larger, beyond rounding.
pub(crate) fn is_greedy(adjusted: &[f64], token: usize) -> bool {
    let largest = adjusted.iter().copied().fold(f64::MIN, f64::max);
    adjusted[token].is_finite() && adjusted[token] >= largest - 1e-5 * (1.0 + largest.abs())
}

/// Whether a drawn row may give `token`: whatever tokens the definition gives when the thresholds and u are moved by
/// as much as rounding may move them.
pub(crate) fn is_drawn(adjusted: &[f64], row: &Row, token: u32) -> bool {
    [-SLACK, 0.0, SLACK].into_iter().any(|slack| {
        let kept = kept(adjusted, row, slack);
        let u = uniform(row.seed);
        let (first, last) = (draw(&kept, u - SLACK), draw(&kept, u + SLACK));
        (first..=last).contains(&token) && kept.iter().any(|&(t, _)| t == token)
    })
}

/// Tokens and weights that top_k, top_p and min_p keep, in id order.
fn kept(adjusted: &[f64], row: &Row, slack: f64) -> Vec<(u32, f64)> {
    let scaled = |token: u32| adjusted[token as usize] / f64::from(row.temperature);
    let mut order: Vec<u32> =
        (0..adjusted.len() as u32).filter(|&token| adjusted[token as usize] > f64::NEG_INFINITY).collect();
    order.sort_by(|&a, &b| scaled(b).total_cmp(&scaled(a)).then(a.cmp(&b)));
    let largest = scaled(order[0]);
    if row.top_k > 0 && (row.top_k as usize) < order.len() {
        let kth = scaled(order[row.top_k as usize - 1]);
        order.retain(|&token| scaled(token) >= kth - slack.max(0.0));
    }
    let weight = |token: u32| (scaled(token) - largest).exp();
    if row.top_p < 1.0 {
        let target = (f64::from(row.top_p) + slack) * order.iter().map(|&token| weight(token)).sum::<f64>();
        let mut sum = 0.0;
        let mut n = 0;
        while n < order.len() && (n == 0 || sum < target) {
            sum += weight(order[n]);
            n += 1;
        }
        order.truncate(n);
    }
    order.retain(|&token| weight(token) >= f64::from(row.min_p) * (1.0 + slack));
    order.sort_unstable();
    order.into_iter().map(|token| (token, weight(token))).collect()
}

fn draw(kept: &[(u32, f64)], u: f64) -> u32 {
    let target = u * kept.iter().map(|(_, weight)| weight).sum::<f64>();
    let mut sum = 0.0;
    for &(token, weight) in kept {
        sum += weight;
        if sum > target {
            return token;
        }
    }
    kept.last().map_or(0, |&(token, _)| token)
}

/// splitmix64 (Vigna, https://prng.di.unimi.it/splitmix64.c), one step from `seed`; the upper 24 bits.
fn uniform(seed: u64) -> f64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 40) as f64 / 16_777_216.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first outputs of the reference program for states 0 and 1234567, as published with it.
    #[test]
    fn uniform_is_the_published_generator() {
        assert_eq!(uniform(0), f64::from(0x00e2_20a8_u32) / 16_777_216.0);
        assert_eq!(uniform(1_234_567), (6_457_827_717_110_365_317_u64 >> 40) as f64 / 16_777_216.0);
    }

    #[test]
    fn a_draw_moves_with_its_seed_and_stays_in_what_is_kept() {
        let adjusted = [1.0, 0.9, 0.8, -5.0];
        let row = |seed| Row { seed, temperature: 1.0, top_k: 3, ..Row::default() };
        let allowed =
            |seed: u64| (0..4).filter(|&token| is_drawn(&adjusted, &row(seed), token)).collect::<Vec<_>>();
        let seen: std::collections::BTreeSet<u32> = (0..50).flat_map(allowed).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 1, 2]);
    }
}
