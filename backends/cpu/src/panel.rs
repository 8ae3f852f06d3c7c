//! The inner loop of every product: some rows times panels of 16 columns.
//!
//! Each output is one chain of fused multiply-adds over the inner dimension in rising order, whatever the number
//! of rows or panels computed beside it: that is what makes results independent of the batch.

use crate::simd::{LANES, Simd};

/// A matrix of 16 columns in memory, read row by row of the inner dimension.
///
/// # Safety
/// `read` may read only what the constructor's caller promised.
pub(crate) unsafe trait Panel: Copy {
    /// Inner rows that `read` reads at once.
    const STEP: usize;
    /// The inner rows `k` and, where `STEP` is 2, `k + 1`.
    ///
    /// # Safety
    /// `k + STEP` is within the matrix.
    unsafe fn read<S: Simd>(self, s: S, k: usize) -> (S::V, S::V);
}

/// Element `(k, n)` at `k * stride + n`.
#[derive(Clone, Copy)]
pub(crate) struct Rows<T> {
    pub start: *const T,
    pub stride: usize,
}

/// bf16 element `(k, n)` at `(k / 2) * stride + 2 * n + k % 2`: the layout AMX and `vdpbf16ps` read.
#[derive(Clone, Copy)]
pub(crate) struct Pairs {
    pub start: *const u16,
    pub stride: usize,
}

/// f16 bits, where [`Rows<u16>`] means bf16.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct F16(pub u16);

// SAFETY: reads 16 elements of row `k`.
unsafe impl Panel for Rows<f32> {
    const STEP: usize = 1;
    #[inline(always)]
    unsafe fn read<S: Simd>(self, s: S, k: usize) -> (S::V, S::V) {
        // SAFETY: the caller keeps `k` within the matrix; a row holds 16 readable elements.
        let row = s.load(unsafe { &*self.start.add(k * self.stride).cast::<[f32; LANES]>() });
        (row, row)
    }
}

// SAFETY: reads 16 elements of row `k`.
unsafe impl Panel for Rows<u16> {
    const STEP: usize = 1;
    #[inline(always)]
    unsafe fn read<S: Simd>(self, s: S, k: usize) -> (S::V, S::V) {
        // SAFETY: the caller keeps `k` within the matrix; a row holds 16 readable elements.
        let row = s.widen_bf16(unsafe { &*self.start.add(k * self.stride).cast::<[u16; LANES]>() });
        (row, row)
    }
}

// SAFETY: reads 16 elements of row `k`.
unsafe impl Panel for Rows<F16> {
    const STEP: usize = 1;
    #[inline(always)]
    unsafe fn read<S: Simd>(self, s: S, k: usize) -> (S::V, S::V) {
        // SAFETY: the caller keeps `k` within the matrix; a row holds 16 readable elements.
        let row = s.widen_f16(unsafe { &*self.start.add(k * self.stride).cast::<[u16; LANES]>() });
        (row, row)
    }
}

// SAFETY: reads the 32 elements of the pair of rows `k`, `k + 1`.
unsafe impl Panel for Pairs {
    const STEP: usize = 2;
    #[inline(always)]
    unsafe fn read<S: Simd>(self, s: S, k: usize) -> (S::V, S::V) {
        // SAFETY: the caller keeps `k + 1` within the matrix; a pair of rows holds 32 readable elements.
        let pair = unsafe { &*self.start.add(k / 2 * self.stride).cast::<[u16; 2 * LANES]>() };
        s.widen_bf16_pairs(pair)
    }
}

/// `acc[r][p] += Σ_k x[r][k] * panels[p][k]` for `k` below `inner`, row `r` of `x` at `x + r * stride`.
///
/// # Safety
/// `x` has `R` readable rows of `inner` elements; every panel has `inner` (a multiple of its `STEP`) rows.
#[inline(always)]
pub(crate) unsafe fn accumulate<S: Simd, W: Panel, const R: usize, const P: usize>(
    s: S,
    acc: &mut [[S::V; P]; R],
    x: *const f32,
    stride: usize,
    panels: [W; P],
    inner: usize,
) {
    let mut k = 0;
    while k < inner {
        for p in 0..P {
            // SAFETY: `k + STEP <= inner`, as `inner` is a multiple of `STEP`.
            let (first, second) = unsafe { panels[p].read(s, k) };
            for (r, acc) in acc.iter_mut().enumerate() {
                // SAFETY: row `r` and element `k` of `x` are readable by the caller's promise.
                acc[p] = s.fma(s.splat(unsafe { *x.add(r * stride + k) }), first, acc[p]);
                if W::STEP == 2 {
                    // SAFETY: as above, for element `k + 1`.
                    acc[p] = s.fma(s.splat(unsafe { *x.add(r * stride + k + 1) }), second, acc[p]);
                }
            }
        }
        k += W::STEP;
    }
}
