//! An exponential function without branches, of which compilers make vector instructions: natively and in WebAssembly.

use std::f64::consts::LOG2_E;

/// Adding it to a small number leaves the nearest integer in the low bits.
const ROUND: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52
/// ln 2 in two parts: the product of the first with an exponent is exact.
const LN2_HIGH: f64 = 0.693_147_180_369_123_8;
const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
/// Below, the result is 0 instead of a subnormal number.
const LEAST: f64 = -708.0;

/// e^x for x at most 0, up to one unit in the last place or two.
#[inline]
pub fn exp(x: f64) -> f64 {
    let bounded = if x > LEAST { x } else { LEAST };
    let shifted = bounded * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = bounded - n * LN2_HIGH - n * LN2_LOW;
    // Taylor's series, of which |r|, at most ln 2 / 2, needs so much: even and odd powers apart, so that neither waits
    // for the other.
    let square = r * r;
    let (mut even, mut odd) = (1.0 / 479_001_600.0, 1.0 / 39_916_800.0);
    for (of_even, of_odd) in
        [(3_628_800.0, 362_880.0), (40_320.0, 5_040.0), (720.0, 120.0), (24.0, 6.0), (2.0, 1.0)]
    {
        even = even * square + 1.0 / of_even;
        odd = odd * square + 1.0 / of_odd;
    }
    let sum = even * square + odd * r + 1.0;
    let power = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52));
    if x > LEAST { sum * power } else { 0.0 }
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_the_exponential_function() {
        for i in 0..100_000 {
            let x = -(f64::from(i) * 0.0070711).powi(2) / 1000.0;
            let (ours, expected) = (super::exp(x), x.exp());
            assert!((ours - expected).abs() <= expected * 5e-16, "exp({x}) = {expected}, not {ours}");
        }
        assert_eq!([0.0, -0.0, -800.0, f64::NEG_INFINITY].map(super::exp), [1.0, 1.0, 0.0, 0.0]);
    }
}
