//! Products by fused multiply-add on f32, weights widened as they are read.

use super::Target;
use crate::isa::Kernel;
use crate::memory::Parts;
use crate::panel::{F16, Pairs, Panel, Rows, accumulate};
use crate::simd::{LANES, Simd};
use crate::weight::{PANEL, Packed, Weight, bf16_inner};
use std::ops::Range;

/// Rounds activations to bf16, kept as f32 in rows of `bf16_inner(cols)`, zeros at the end.
pub(super) struct Round<'a> {
    pub x: &'a [f32],
    pub cols: usize,
    pub rows: Range<usize>,
    pub out: Parts<'a, f32>,
}

impl Kernel for Round<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let inner = bf16_inner(self.cols);
        for r in self.rows {
            // SAFETY: chunks hold disjoint rows.
            let out = unsafe { self.out.part(r * inner..(r + 1) * inner) };
            let from = self.x[r * self.cols..][..self.cols].chunks(LANES);
            let (out, _) = out.as_chunks_mut::<LANES>();
            for (i, out) in out.iter_mut().enumerate() {
                let mut bits = [0; LANES];
                if let Some(x) = from.clone().nth(i) {
                    s.narrow_bf16(s.load_part(x, 0.0), &mut bits);
                }
                s.store(s.widen_bf16(&bits), out);
            }
        }
    }
}

/// One chunk of a product: some rows by some panels.
pub(super) struct Multiply<'a> {
    pub x: &'a [f32],
    pub stride: usize,
    pub rows: Range<usize>,
    pub weight: &'a Weight,
    pub panels: Range<usize>,
    pub target: Target<'a>,
}

impl Kernel for Multiply<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        assert!(self.x.len() >= self.rows.end * self.stride && self.panels.end <= self.weight.panels());
        let cols = self.weight.cols;
        match &self.weight.data {
            Packed::F32(w) => {
                let at = |p: usize| Rows { start: w[p * PANEL * cols..].as_ptr(), stride: PANEL };
                self.panels(s, at, cols)
            }
            Packed::F16(w) => {
                let at =
                    |p: usize| Rows { start: w[p * PANEL * cols..].as_ptr().cast::<F16>(), stride: PANEL };
                self.panels(s, at, cols)
            }
            Packed::Bf16(w) => {
                let inner = bf16_inner(cols);
                let at = |p: usize| Pairs { start: w[p * PANEL * inner..].as_ptr(), stride: 2 * PANEL };
                self.panels(s, at, inner)
            }
        }
    }
}

impl Multiply<'_> {
    #[inline(always)]
    fn panels<S: Simd, W: Panel>(&self, s: S, at: impl Fn(usize) -> W, inner: usize) {
        for panel in self.panels.clone().step_by(2) {
            let pair = panel + 1 < self.panels.end;
            let mut r = self.rows.start;
            while r < self.rows.end {
                let left = self.rows.end - r;
                r += if S::ROWS >= 12 && left >= 12 {
                    self.block::<S, W, 12>(s, &at, inner, r, panel, pair)
                } else if S::ROWS >= 6 && left >= 6 {
                    self.block::<S, W, 6>(s, &at, inner, r, panel, pair)
                } else if left >= 2 {
                    self.block::<S, W, 2>(s, &at, inner, r, panel, pair)
                } else {
                    self.block::<S, W, 1>(s, &at, inner, r, panel, pair)
                };
            }
        }
    }

    /// `R` rows by one or two panels; returns `R`.
    #[inline(always)]
    fn block<S: Simd, W: Panel, const R: usize>(
        &self,
        s: S,
        at: &impl Fn(usize) -> W,
        inner: usize,
        row: usize,
        panel: usize,
        pair: bool,
    ) -> usize {
        if pair && 2 * R <= S::ROWS {
            self.sums::<S, W, R, 2>(s, [at(panel), at(panel + 1)], inner, row, panel);
        } else {
            self.sums::<S, W, R, 1>(s, [at(panel)], inner, row, panel);
            if pair {
                self.sums::<S, W, R, 1>(s, [at(panel + 1)], inner, row, panel + 1);
            }
        }
        R
    }

    #[inline(always)]
    fn sums<S: Simd, W: Panel, const R: usize, const P: usize>(
        &self,
        s: S,
        panels: [W; P],
        inner: usize,
        row: usize,
        panel: usize,
    ) {
        let mut acc = [[s.splat(0.0); P]; R];
        let x = self.x[row * self.stride..].as_ptr();
        // SAFETY: `run` checked that the rows and panels are whole; a panel has `inner` rows, even for pairs.
        unsafe { accumulate(s, &mut acc, x, self.stride, panels, inner) };
        for (r, sums) in acc.into_iter().enumerate() {
            for (p, sums) in sums.into_iter().enumerate() {
                // SAFETY: chunks hold disjoint rows or panels.
                unsafe { self.target.write(s, row + r, panel + p, self.weight, sums) };
            }
        }
    }
}
