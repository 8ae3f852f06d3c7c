//! Operations on rows: norms, gates, caps.

use crate::isa::Kernel;
use crate::math::{erf, sigmoid, tanh};
use crate::memory::Parts;
use crate::simd::{LANES, Simd};
use std::ops::Range;
use tokenmill_backend_model::device::Activation;

/// A function of two numbers. A trait, since a closure would be compiled without the caller's instructions.
trait Pointwise {
    fn apply<S: Simd>(&self, s: S, x: S::V, y: S::V) -> S::V;
}

/// `out[i] = f(x[i], y[i])`.
#[inline(always)]
fn map<S: Simd>(s: S, x: &[f32], y: &[f32], out: &mut [f32], f: impl Pointwise) {
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    let (out, out_rest) = out.as_chunks_mut::<LANES>();
    for ((x, y), out) in x.iter().zip(y).zip(out) {
        s.store(f.apply(s, s.load(x), s.load(y)), out);
    }
    if !out_rest.is_empty() {
        s.store_part(f.apply(s, s.load_part(x_rest, 0.0), s.load_part(y_rest, 0.0)), out_rest);
    }
}

/// `x * self * y`.
struct Scaled(f32);

impl Pointwise for Scaled {
    #[inline(always)]
    fn apply<S: Simd>(&self, s: S, x: S::V, y: S::V) -> S::V {
        s.mul(s.mul(x, s.splat(self.0)), y)
    }
}

struct Silu;

impl Pointwise for Silu {
    #[inline(always)]
    fn apply<S: Simd>(&self, s: S, gate: S::V, up: S::V) -> S::V {
        s.mul(s.mul(gate, sigmoid(s, gate)), up)
    }
}

struct GeluTanh;

impl Pointwise for GeluTanh {
    #[inline(always)]
    fn apply<S: Simd>(&self, s: S, gate: S::V, up: S::V) -> S::V {
        s.mul(gelu_tanh(s, gate), up)
    }
}

struct Gelu;

impl Pointwise for Gelu {
    #[inline(always)]
    fn apply<S: Simd>(&self, s: S, gate: S::V, up: S::V) -> S::V {
        s.mul(gelu(s, gate), up)
    }
}

/// `1 / sqrt(mean(x²) + eps)`.
#[inline(always)]
fn inverse_rms<S: Simd>(s: S, x: &[f32], eps: f32) -> f32 {
    let mut sums = [s.splat(0.0); 2];
    let (full, rest) = x.as_chunks::<LANES>();
    for (i, x) in full.iter().enumerate() {
        let v = s.load(x);
        sums[i % 2] = s.fma(v, v, sums[i % 2]);
    }
    if !rest.is_empty() {
        let v = s.load_part(rest, 0.0);
        sums[full.len() % 2] = s.fma(v, v, sums[full.len() % 2]);
    }
    1.0 / (s.sum(s.add(sums[0], sums[1])) / x.len() as f32 + eps).sqrt()
}

/// `out = x / sqrt(mean(x²) + eps) * weight` (arXiv 1910.07467).
#[inline(always)]
pub(crate) fn rms_norm<S: Simd>(s: S, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    map(s, x, weight, out, Scaled(inverse_rms(s, x, eps)));
}

/// `rms_norm` of one head in place.
#[inline(always)]
pub(crate) fn rms_norm_in_place<S: Simd>(s: S, x: &mut [f32], weight: &[f32], eps: f32) {
    let scale = s.splat(inverse_rms(s, x, eps));
    let ((x, x_rest), (w, w_rest)) = (x.as_chunks_mut::<LANES>(), weight.as_chunks::<LANES>());
    for (x, w) in x.iter_mut().zip(w) {
        s.store(s.mul(s.mul(s.load(x), scale), s.load(w)), x);
    }
    if !x_rest.is_empty() {
        s.store_part(s.mul(s.mul(s.load_part(x_rest, 0.0), scale), s.load_part(w_rest, 0.0)), x_rest);
    }
}

/// `rms_norm` of a range of rows, in place.
pub(crate) struct Norm<'a> {
    pub rows: Range<usize>,
    pub x: Parts<'a, f32>,
    pub weight: &'a [f32],
    pub eps: f32,
}

impl Kernel for Norm<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.weight.len();
        for r in self.rows {
            // SAFETY: chunks hold disjoint rows.
            let x = unsafe { self.x.part(r * n..(r + 1) * n) };
            rms_norm_in_place(s, x, self.weight, self.eps);
        }
    }
}

/// `residual += x`, then `out = rms_norm(residual)`, for a range of rows.
pub(crate) struct AddNorm<'a> {
    pub rows: Range<usize>,
    pub residual: Parts<'a, f32>,
    pub x: &'a [f32],
    pub weight: &'a [f32],
    pub eps: f32,
    pub out: Parts<'a, f32>,
}

impl Kernel for AddNorm<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.weight.len();
        for r in self.rows {
            let row = r * n..(r + 1) * n;
            // SAFETY: chunks hold disjoint rows.
            let (residual, out) = unsafe { (self.residual.part(row.clone()), self.out.part(row.clone())) };
            add_to(s, &self.x[row], residual);
            rms_norm(s, residual, self.weight, self.eps, out);
        }
    }
}

/// `to += x`.
#[inline(always)]
pub(crate) fn add_to<S: Simd>(s: S, x: &[f32], to: &mut [f32]) {
    let ((x, x_rest), (to, to_rest)) = (x.as_chunks::<LANES>(), to.as_chunks_mut::<LANES>());
    for (x, to) in x.iter().zip(to) {
        s.store(s.add(s.load(to), s.load(x)), to);
    }
    to_rest.iter_mut().zip(x_rest).for_each(|(to, x)| *to += x);
}

/// `out = activation(gate) * up` on rows `[gate | up]` of twice `cols`.
pub(crate) struct Gate<'a> {
    pub rows: Range<usize>,
    pub cols: usize,
    pub gate_up: &'a [f32],
    pub activation: Activation,
    pub out: Parts<'a, f32>,
}

impl Kernel for Gate<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.cols;
        for r in self.rows {
            let (gate, up) = self.gate_up[2 * r * n..2 * (r + 1) * n].split_at(n);
            // SAFETY: chunks hold disjoint rows.
            let out = unsafe { self.out.part(r * n..(r + 1) * n) };
            match self.activation {
                Activation::Silu => map(s, gate, up, out, Silu),
                Activation::GeluTanh => map(s, gate, up, out, GeluTanh),
                Activation::Gelu => map(s, gate, up, out, Gelu),
            }
        }
    }
}

#[inline(always)]
fn gelu_tanh<S: Simd>(s: S, x: S::V) -> S::V {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    let inner = s.mul(s.mul(x, s.splat(SQRT_2_OVER_PI)), s.fma(s.mul(x, x), s.splat(0.044715), s.splat(1.0)));
    s.mul(s.mul(x, s.splat(0.5)), s.add(s.splat(1.0), tanh(s, inner)))
}

#[inline(always)]
fn gelu<S: Simd>(s: S, x: S::V) -> S::V {
    let y = erf(s, s.mul(x, s.splat(std::f32::consts::FRAC_1_SQRT_2)));
    s.mul(s.mul(x, s.splat(0.5)), s.add(s.splat(1.0), y))
}

/// `x = cap * tanh(x / cap)` on a range of rows.
pub(crate) struct Softcap<'a> {
    pub rows: Range<usize>,
    pub cols: usize,
    pub x: Parts<'a, f32>,
    pub cap: f32,
}

impl Kernel for Softcap<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: chunks hold disjoint rows.
        let x = unsafe { self.x.part(self.rows.start * self.cols..self.rows.end * self.cols) };
        let (full, rest) = x.as_chunks_mut::<LANES>();
        for x in full {
            s.store(capped(s, s.load(x), self.cap), x);
        }
        if !rest.is_empty() {
            s.store_part(capped(s, s.load_part(rest, 0.0), self.cap), rest);
        }
    }
}

#[inline(always)]
pub(crate) fn capped<S: Simd>(s: S, x: S::V, cap: f32) -> S::V {
    s.mul(tanh(s, s.div(x, s.splat(cap))), s.splat(cap))
}
