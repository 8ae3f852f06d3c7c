//! `out = x · weightᵀ + bias`.
//!
//! bf16 weights: activations are rounded to bf16, sums are f32, on AMX tiles where there are any and else by
//! widening to f32. f16 and f32 weights: activations stay f32. Every output is summed in one fixed order that does
//! not depend on the number of rows, the chunk it falls in or the thread.

mod fma;
#[cfg(target_arch = "x86_64")]
mod tiles;

use crate::memory::{Parts, Slab};
use crate::paths::Paths;
use crate::simd::{LANES, Simd};
use crate::threads::Pool;
use crate::weight::{PANEL, Packed, Weight, bf16_inner};
use std::ops::Range;
use tokenmill_backend_model::error::Error;

/// Weights one chunk reads: long enough for the hardware to stream, short enough to share evenly.
const CHUNK_BYTES: usize = 96 << 10;
/// Activations that should stay in a core's second-level cache while weights pass.
const RESIDENT_BYTES: usize = 1 << 20;

/// Room for activations as the products read them.
#[derive(Default)]
pub(crate) struct Scratch {
    bits: Slab<u16>,
    wide: Slab<f32>,
}

impl Scratch {
    /// Makes room for `rows` rows of `cols` columns.
    pub(crate) fn reserve(&mut self, rows: usize, cols: usize) -> Result<(), Error> {
        let len = rows.next_multiple_of(16) * bf16_inner(cols);
        if self.bits.len() < len {
            let none = || Error::NoMemory(format!("no memory for {rows} x {cols} activations"));
            self.bits = Slab::try_zeroed(len).ok_or_else(none)?;
            self.wide = Slab::try_zeroed(len).ok_or_else(none)?;
        }
        Ok(())
    }
}

/// Where results go: columns `column..` of rows of `cols`.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub out: Parts<'a, f32>,
    pub cols: usize,
    pub column: usize,
    pub bias: Option<&'a [f32]>,
}

impl Target<'_> {
    /// The part of row `row` that `panel` fills, and its bias.
    ///
    /// # Safety
    /// No other thread holds the same part.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // as of `Parts`
    unsafe fn part(&self, row: usize, panel: usize, rows_of_weight: usize) -> (&mut [f32], Option<&[f32]>) {
        let first = panel * PANEL;
        let n = (rows_of_weight - first).min(PANEL);
        let start = row * self.cols + self.column + first;
        // SAFETY: the caller's promise.
        let out = unsafe { self.out.part(start..start + n) };
        (out, self.bias.map(|b| &b[first..first + n]))
    }

    /// Writes 16 sums, fewer at the edge.
    ///
    /// # Safety
    /// As for `part`.
    #[inline(always)]
    unsafe fn write<S: Simd>(&self, s: S, row: usize, panel: usize, weight: &Weight, sums: S::V) {
        // SAFETY: the caller's promise.
        let (out, bias) = unsafe { self.part(row, panel, weight.rows) };
        // No closures on vectors: they would be compiled without the caller's instructions.
        let sums = match bias.map(|b| (b, b.first_chunk::<LANES>())) {
            None => sums,
            Some((_, Some(full))) => s.add(sums, s.load(full)),
            Some((part, None)) => s.add(sums, s.load_part(part, 0.0)),
        };
        match <&mut [f32; LANES]>::try_from(&mut *out) {
            Ok(full) => s.store(sums, full),
            Err(_) => s.store_part(sums, out),
        }
    }
}

/// Multiplies `rows` rows of `x` (`[rows, weight.cols]`).
pub(crate) fn linear(
    paths: &Paths,
    pool: &mut Pool,
    scratch: &mut Scratch,
    x: &[f32],
    rows: usize,
    weight: &Weight,
    target: Target<'_>,
) {
    let plan = Plan::new(rows, weight, pool.threads());
    let cols = weight.cols;
    let isa = paths.isa;
    match &weight.data {
        #[cfg(target_arch = "x86_64")]
        Packed::Bf16(w) if let Some(amx) = paths.amx => {
            let inner = bf16_inner(cols);
            let bits = &mut scratch.bits[..rows.next_multiple_of(16) * inner];
            let parts = Parts::new(bits);
            pool.rows(rows, cols, |rows| isa.run(tiles::Round { x, cols, rows, out: parts }));
            let x = &*bits;
            pool.run(plan.chunks(), |chunk, _| {
                let (rows, panels) = plan.chunk(chunk);
                let fetch = rows.start == 0;
                isa.run(tiles::Multiply { amx, x, rows, fetch, weight, w, inner, panels, target })
            });
        }
        Packed::Bf16(_) => {
            let wide = &mut scratch.wide[..rows * bf16_inner(cols)];
            let parts = Parts::new(wide);
            pool.rows(rows, cols, |rows| isa.run(fma::Round { x, cols, rows, out: parts }));
            let (x, stride) = (&*wide, bf16_inner(cols));
            pool.run(plan.chunks(), |chunk, _| {
                let (rows, panels) = plan.chunk(chunk);
                isa.run(fma::Multiply { x, stride, rows, weight, panels, target })
            });
        }
        Packed::F32(_) | Packed::F16(_) => pool.run(plan.chunks(), |chunk, _| {
            let (rows, panels) = plan.chunk(chunk);
            isa.run(fma::Multiply { x, stride: cols, rows, weight, panels, target })
        }),
    }
}

/// How a product is cut: groups of panels by groups of rows.
struct Plan {
    rows: usize,
    panels: usize,
    rows_per_chunk: usize,
    panels_per_chunk: usize,
}

impl Plan {
    fn new(rows: usize, weight: &Weight, threads: usize) -> Plan {
        let panels = weight.panels();
        let share = panels.div_ceil(2 * 3 * threads).max(1);
        let panels_per_chunk = 2 * (CHUNK_BYTES / (2 * weight.panel_bytes())).clamp(1, share);
        let groups = panels.div_ceil(panels_per_chunk);
        let resident = (RESIDENT_BYTES / (2 * weight.cols)).next_multiple_of(32);
        let even = rows.div_ceil((4 * threads).div_ceil(groups)).next_multiple_of(32);
        Plan { rows, panels, rows_per_chunk: resident.min(even).max(32), panels_per_chunk }
    }

    fn groups(&self) -> usize {
        self.panels.div_ceil(self.panels_per_chunk)
    }

    fn chunks(&self) -> usize {
        self.groups() * self.rows.div_ceil(self.rows_per_chunk)
    }

    /// Rows and panels of a chunk; neighbours share rows.
    fn chunk(&self, chunk: usize) -> (Range<usize>, Range<usize>) {
        let row = chunk / self.groups() * self.rows_per_chunk;
        let panel = chunk % self.groups() * self.panels_per_chunk;
        (
            row..(row + self.rows_per_chunk).min(self.rows),
            panel..(panel + self.panels_per_chunk).min(self.panels),
        )
    }
}
