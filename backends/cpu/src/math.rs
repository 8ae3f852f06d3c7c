//! Elementary functions on 16 lanes.

use crate::simd::Simd;

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts whose first has few bits (Cody and Waite), so `n * LN2_HIGH` is exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// Below this, e^x is no normal f32.
const EXP_LEAST: f32 = -87.0;
const EXP_MOST: f32 = 88.0;

/// e^x with a relative error below 2e-7; 0 below -87, e^88 above 88. NaN is not kept.
///
/// Polynomial of degree 5 after reduction to |r| <= ln 2 / 2 (Cephes `expf`, Moshier).
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    let clamped = s.min(s.max(x, s.splat(EXP_LEAST)), s.splat(EXP_MOST));
    let n = s.round(s.mul(clamped, s.splat(LOG2_E)));
    let r = s.fma(n, s.splat(-LN2_HIGH), clamped);
    let r = s.fma(n, s.splat(-LN2_LOW), r);
    let mut p = s.splat(1.987_569_1e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
        p = s.fma(p, r, s.splat(c));
    }
    let y = s.add(s.fma(s.mul(r, r), p, r), s.splat(1.0));
    let y = s.mul(y, s.exp2_int(n));
    s.select_lt(x, s.splat(EXP_LEAST), s.splat(0.0), y)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.splat(0.0), x))))
}

/// tanh with an absolute error below 3e-7: `1 - 2 / (e^2x + 1)`, and its series where that cancels.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    let e = exp(s, s.add(x, x));
    let large = s.sub(one, s.div(s.splat(2.0), s.add(e, one)));
    // x - x³/3 + 2x⁵/15 - 17x⁷/315: error below 2e-8 of x for |x| < 0.15.
    let x2 = s.mul(x, x);
    let mut p = s.splat(-17.0 / 315.0);
    for c in [2.0 / 15.0, -1.0 / 3.0, 1.0] {
        p = s.fma(p, x2, s.splat(c));
    }
    s.select_lt(x2, s.splat(0.0225), s.mul(p, x), large)
}

/// erf with an absolute error below 4e-7 (Abramowitz and Stegun 7.1.26).
#[inline(always)]
pub(crate) fn erf<S: Simd>(s: S, x: S::V) -> S::V {
    let (zero, one) = (s.splat(0.0), s.splat(1.0));
    let a = s.max(x, s.sub(zero, x));
    let t = s.div(one, s.fma(a, s.splat(0.327_591_1), one));
    let mut p = s.splat(1.061_405_4);
    for c in [-1.453_152_1, 1.421_413_8, -0.284_496_73, 0.254_829_6] {
        p = s.fma(p, t, s.splat(c));
    }
    let y = s.sub(one, s.mul(s.mul(p, t), exp(s, s.sub(zero, s.mul(a, a)))));
    s.select_lt(x, zero, s.sub(zero, y), y)
}
