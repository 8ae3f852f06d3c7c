//! Products of bf16 weights on AMX tiles.

use super::Target;
use crate::amx::{Amx, Block, INNER, ROWS, Sums, TILE};
use crate::isa::Kernel;
use crate::memory::Parts;
use crate::simd::{LANES, Simd};
use crate::weight::{PANEL, Weight, bf16_inner};
use std::ops::Range;

/// Rounds activations to bf16 and puts them in tiles `[rows / 16][inner / 32][16][32]`, zeros past `cols`.
pub(super) struct Round<'a> {
    pub x: &'a [f32],
    pub cols: usize,
    pub rows: Range<usize>,
    pub out: Parts<'a, u16>,
}

impl Kernel for Round<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let steps = bf16_inner(self.cols) / INNER;
        for r in self.rows {
            let x = &self.x[r * self.cols..][..self.cols];
            for step in 0..steps {
                let at = (r / ROWS * steps + step) * TILE + r % ROWS * INNER;
                // SAFETY: chunks hold disjoint rows.
                let (out, _) = unsafe { self.out.part(at..at + INNER) }.as_chunks_mut::<LANES>();
                for (half, out) in out.iter_mut().enumerate() {
                    let from = (step * INNER + half * LANES).min(self.cols);
                    let values = match x[from..].first_chunk::<LANES>() {
                        Some(full) => s.load(full),
                        None => s.load_part(&x[from..], 0.0),
                    };
                    s.narrow_bf16(values, out);
                }
            }
        }
    }
}

/// One chunk of a product: some rows (from a multiple of 32) by some panels.
pub(super) struct Multiply<'a> {
    pub amx: Amx,
    pub x: &'a [u16],
    pub rows: Range<usize>,
    /// These rows are the first to read the weights.
    pub fetch: bool,
    pub weight: &'a Weight,
    pub w: &'a [u16],
    pub inner: usize,
    pub panels: Range<usize>,
    pub target: Target<'a>,
}

impl Kernel for Multiply<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let steps = self.inner / INNER;
        let panel_len = PANEL * self.inner;
        assert!(self.rows.start.is_multiple_of(2 * ROWS) && self.w.len() >= self.panels.end * panel_len);
        assert!(self.x.len() >= self.rows.end.next_multiple_of(ROWS) * self.inner);
        let mut tiles = self.amx.tiles();
        let mut sums = Sums::zero();
        for panel in self.panels.clone().step_by(2) {
            let n_panels = (self.panels.end - panel).min(2);
            let start = |p: usize| self.w[p * panel_len..].as_ptr();
            for row in self.rows.clone().step_by(2 * ROWS) {
                let rows = (self.rows.end - row).min(2 * ROWS);
                let block = Block {
                    x: self.x[row * self.inner..].as_ptr(),
                    rows,
                    panels: [start(panel), start(panel + n_panels - 1)],
                    n_panels,
                    steps,
                    fetch: self.fetch && row == self.rows.start,
                };
                // SAFETY: the asserts above cover the tiles of these rows and the panels.
                unsafe { tiles.multiply(&block, &mut sums) };
                self.write(s, &sums, row, rows, panel, n_panels);
            }
        }
    }
}

impl Multiply<'_> {
    #[inline(always)]
    fn write<S: Simd>(&self, s: S, sums: &Sums, row: usize, rows: usize, panel: usize, n_panels: usize) {
        for r in 0..rows {
            for p in 0..n_panels {
                let v = s.load(&sums.0[r / ROWS][p][r % ROWS]);
                // SAFETY: chunks hold disjoint rows or panels.
                unsafe { self.target.write(s, row + r, panel + p, self.weight, v) };
            }
        }
    }
}
