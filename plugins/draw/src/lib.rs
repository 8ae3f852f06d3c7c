//! Picking a token by hand: as many candidates as it takes, a number made of a row's seed, and a draw.
//!
//! Invariant: the same candidates and seed give the same token natively and in WebAssembly. Transcendental
//! functions are therefore our own or `libm`'s: those of the platform differ in the last bit.
#![forbid(unsafe_code)]

mod exp;

use tokenmill_policy::Error;
use tokenmill_policy::sample::Logits;

/// Candidates to ask for at first: more than most distributions need.
const FEW: u32 = 64;

/// Candidates to ask for at most: what costs a step microseconds, and leaves out what is hardly ever drawn.
const MOST: u32 = 512;

/// The most likely tokens of a row and their log-probabilities, most likely first: as many as `enough` wants,
/// which sees the log-probabilities so far, or the first 512. Costs one top-k of the backend, rarely more.
pub fn candidates(
    logits: &mut dyn Logits,
    row: u32,
    mut enough: impl FnMut(&[f32]) -> bool,
) -> Result<(Vec<u32>, Vec<f32>), Error> {
    let most = MOST.min(logits.vocab());
    let mut k = FEW.min(most);
    loop {
        let (tokens, logprobs) = logits.top_k(row, k)?;
        if tokens.is_empty() {
            return Err(Error::Undecided("a row has no candidates".into()));
        }
        if k == most || enough(&logprobs) {
            return Ok((tokens, logprobs));
        }
        k = (k * 4).min(most);
    }
}

/// The weights of log-probabilities at a temperature above 0, the first one's being 1; they need not sum to
/// anything. The first is the largest.
pub fn weights(logprobs: &[f32], temperature: f32) -> Vec<f64> {
    let first = logprobs.first().copied().unwrap_or_default();
    let scale = 1.0 / f64::from(temperature);
    logprobs.iter().map(|logprob| exp::exp(f64::from(logprob - first) * scale)).collect()
}

/// The probability of all candidates together.
pub fn mass(logprobs: &[f32]) -> f64 {
    logprobs.iter().map(|logprob| exp::exp(f64::from(*logprob))).sum()
}

/// The first index at which the sum of the weights passes `u` of their total; `u` is in [0, 1).
pub fn draw(weights: &[f64], u: f64) -> usize {
    let at = u * weights.iter().sum::<f64>();
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

    /// Token t has the log-probability -t.
    struct Falling;
    impl Logits for Falling {
        fn vocab(&self) -> u32 {
            2000
        }

        fn top_k(&mut self, _: u32, k: u32) -> Result<(Vec<u32>, Vec<f32>), Error> {
            Ok(((0..k).collect(), (0..k).map(|t| -(t as f32)).collect()))
        }

        fn read(&mut self, _: u32) -> Result<&[f32], Error> {
            Err(Error::Undecided("not needed".into()))
        }
    }

    #[test]
    fn candidates_grow_until_they_are_enough() {
        let len = |least: f32| {
            let found = candidates(&mut Falling, 0, |logprobs| logprobs.last() <= Some(&least));
            found.map(|(tokens, _)| tokens.len())
        };
        assert_eq!(len(-10.0), Ok(64));
        assert_eq!(len(-100.0), Ok(256));
        assert_eq!(len(-9999.0), Ok(512));
    }

    #[test]
    fn draws_follow_the_weights() {
        assert_eq!([0.0, 0.24, 0.26, 0.99].map(|u| draw(&[1.0, 3.0], u)), [0, 0, 1, 1]);
        let (drawn, weights) = ((0..4000).map(|n| uniform(7, n)), [1.0, 0.0, 1.0, 2.0]);
        let mut counts = [0i32; 4];
        drawn.for_each(|u| counts[draw(&weights, u)] += 1);
        // Expected 1000, 0, 1000, 2000 with a standard deviation of at most 32.
        assert!(counts[1] == 0 && (counts[0] - 1000).abs() < 130 && (counts[3] - 2000).abs() < 130);
    }

    #[test]
    fn a_low_temperature_sharpens() {
        let halves = weights(&[-1.0, -2.0], 0.5);
        assert!((halves[0], (halves[1] - (-2f64).exp()).abs() < 1e-12) == (1.0, true));
    }
}
