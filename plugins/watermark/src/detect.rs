//! Finding the watermark in a text.

use std::collections::BTreeSet;

use crate::green;

/// What a text says about its origin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evidence {
    /// Pairs of a token and the one before, each counted once however often it occurs.
    pub pairs: usize,
    /// Those whose second token is on the list of the first.
    pub green: usize,
    /// Standard deviations by which `green` is above what chance gives.
    pub z: f64,
    /// How likely chance gives at least as many.
    pub p: f64,
}

/// Counts green tokens with the key and gamma that the text was made with, and compares them with chance:
/// the z of equation 3 of the paper, and the tail of the normal distribution above it. A pair that repeats
/// says nothing new. None: no pair at all.
pub fn detect(tokens: &[u32], key: u64, gamma: f32) -> Option<Evidence> {
    let pairs: BTreeSet<(u32, u32)> = tokens.windows(2).map(|pair| (pair[0], pair[1])).collect();
    let green = pairs.iter().filter(|pair| green(key, gamma, pair.0, pair.1)).count();
    (!pairs.is_empty()).then(|| weigh(green, pairs.len(), f64::from(gamma)))
}

pub(crate) fn weigh(green: usize, pairs: usize, gamma: f64) -> Evidence {
    let of = pairs as f64;
    let z = (green as f64 - gamma * of) / libm::sqrt(of * gamma * (1.0 - gamma));
    Evidence { pairs, green, z, p: 0.5 * libm::erfc(z * std::f64::consts::FRAC_1_SQRT_2) }
}
