//! An exponential function without branches, of which compilers make vector instructions: natively and in WebAssembly.

use std::f64::consts::{LN_2, LOG2_E};

/// Adding it to a small number leaves the nearest integer in the low bits.
const ROUND: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52
/// Below, the result is 0 instead of a subnormal number.
const LEAST: f64 = -708.0;

/// e^x for x at most 0, with a relative error of at most 8e-9: that of a log-probability in f32 is eight times as much. More
/// terms are more constants than a processor has registers.
#[inline]
pub fn exp(x: f64) -> f64 {
    let bounded = if x > LEAST { x } else { LEAST };
    let shifted = bounded * LOG2_E + ROUND;
    let r = bounded - (shifted - ROUND) * LN_2;
    // Taylor's series up to r^7; |r| is at most ln 2 / 2. Even and odd powers apart, so that neither waits for the other.
    let square = r * r;
    let even = ((square * (1.0 / 720.0) + 1.0 / 24.0) * square + 0.5) * square + 1.0;
    let odd = ((square * (1.0 / 5040.0) + 1.0 / 120.0) * square + 1.0 / 6.0) * square + 1.0;
    let power = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52));
    if x > LEAST { (even + odd * r) * power } else { 0.0 }
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_the_exponential_function() {
        for i in 0..100_000 {
            let x = -(f64::from(i) * 0.0070711).powi(2) / 1000.0;
            let (ours, expected) = (super::exp(x), x.exp());
            assert!((ours - expected).abs() <= expected * 8e-9, "exp({x}) = {expected}, not {ours}");
        }
        assert_eq!([0.0, -0.0, -800.0, f64::NEG_INFINITY].map(super::exp), [1.0, 1.0, 0.0, 0.0]);
    }
}
