//! Picking a token by hand: weights of candidates, a number made of a row's seed, and a draw.
//!
//! Invariant: the same candidates and seed give the same token natively and in WebAssembly. Transcendental
//! functions are therefore our own or `libm`'s: those of the platform differ in the last bit.
#![forbid(unsafe_code)]

mod exp;

pub use exp::exp;

/// The weights of log-probabilities at a temperature above 0, the first one's being 1; they need not sum to
/// anything. The first is the largest.
pub fn weights(logprobs: &[f32], temperature: f32) -> Vec<f64> {
    let first = logprobs.first().copied().unwrap_or_default();
    let scale = 1.0 / f64::from(temperature);
    logprobs.iter().map(|logprob| exp(f64::from(logprob - first) * scale)).collect()
}

/// The sum of so many values, by four sums of every fourth: one alone would wait for each addition.
pub fn sum_of(count: usize, value: impl Fn(usize) -> f64) -> f64 {
    let (mut sums, fours) = ([0.0; 4], count - count % 4);
    for first in (0..fours).step_by(4) {
        sums.iter_mut().enumerate().for_each(|(nth, sum)| *sum += value(first + nth));
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3]) + (fours..count).map(value).sum::<f64>()
}

/// The sum of values, as [`sum_of`].
pub fn sum(values: &[f64]) -> f64 {
    sum_of(values.len(), |nth| values[nth])
}

/// The first index at which the sum of the weights passes `u` of `total`, which is theirs; `u` is in [0, 1).
pub fn draw(weights: &[f64], total: f64, u: f64) -> usize {
    let at = u * total;
    let mut sum = 0.0;
    let passed = weights.iter().position(|weight| {
        sum += weight;
        sum > at
    });
    passed.unwrap_or(weights.len().saturating_sub(1))
}

/// A number in [0, 1) of a row's seed, and of how many were made of it before.
pub fn uniform(seed: u64, nth: u64) -> f64 {
    (mix(seed, nth) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// One step of splitmix64 (Steele, Lea, Flood 2014, with Vigna's constants) over two numbers.
pub fn mix(seed: u64, value: u64) -> u64 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut z = seed.wrapping_add(value.wrapping_mul(GOLDEN)).wrapping_add(GOLDEN);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_weights() {
        assert_eq!([0.0, 0.24, 0.26, 0.99].map(|u| draw(&[1.0, 3.0], 4.0, u)), [0, 0, 1, 1]);
        let (drawn, weights) = ((0..4000).map(|n| uniform(7, n)), [1.0, 0.0, 1.0, 2.0]);
        let mut counts = [0i32; 4];
        drawn.for_each(|u| counts[draw(&weights, 4.0, u)] += 1);
        // Expected 1000, 0, 1000, 2000 with a standard deviation of at most 32.
        assert!(counts[1] == 0 && (counts[0] - 1000).abs() < 130 && (counts[3] - 2000).abs() < 130);
    }

    #[test]
    fn sums_are_of_all_values() {
        let values: Vec<f64> = (0..10).map(|n| f64::from(1 << n)).collect();
        assert_eq!([0, 3, 4, 10].map(|n| sum(&values[..n])), [0.0, 7.0, 15.0, 1023.0]);
    }

    #[test]
    fn a_low_temperature_sharpens() {
        let halves = weights(&[-1.0, -2.0], 0.5);
        assert!((halves[0], (halves[1] - (-2f64).exp()).abs() < 1e-12) == (1.0, true));
    }
}
