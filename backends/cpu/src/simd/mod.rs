//! Sixteen f32 lanes on any instruction set.
//!
//! Every kernel is written once over [`Simd`] and compiled per instruction set by [`crate::isa`]. A vector is
//! always 16 lanes wide (one AVX-512 register, two AVX2, four NEON), so packed layouts and the order of every sum
//! are the same on every machine; the sets that fuse multiply and add give the same bits.
//!
//! A value of a `Simd` type is the proof that this CPU has the instructions, which is why its methods are safe.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
pub(crate) mod portable;

/// Lanes of every vector.
pub(crate) const LANES: usize = 16;

pub trait Simd: Copy + Send + Sync {
    type V: Copy;
    /// Rows a matrix micro-kernel keeps in registers beside one 16-lane vector.
    const ROWS: usize;

    fn splat(self, x: f32) -> Self::V;
    fn load(self, x: &[f32; LANES]) -> Self::V;
    fn store(self, v: Self::V, out: &mut [f32; LANES]);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// The larger lane; `b` where `a` is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller lane; `b` where `a` is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once where the machine can.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `x` where `a < b`, else `y`.
    fn select_lt(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// Nearest integer, ties to even; |v| must stay below 2^22.
    fn round(self, v: Self::V) -> Self::V;
    /// `2^n` for integral `n` in -126..=127.
    fn exp2_int(self, n: Self::V) -> Self::V;
    fn widen_bf16(self, x: &[u16; LANES]) -> Self::V;
    /// Nearest bf16, ties to even; NaN stays NaN.
    fn narrow_bf16(self, v: Self::V, out: &mut [u16; LANES]);
    fn widen_f16(self, x: &[u16; LANES]) -> Self::V;
    /// Splits 16 pairs of bf16 into the first and the second of each pair.
    fn widen_bf16_pairs(self, x: &[u16; 2 * LANES]) -> (Self::V, Self::V);

    /// Sum of the lanes, always by halving (lane i + lane i+8, then +4, +2, +1).
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        self.fold(v, |a, b| a + b)
    }

    /// Largest lane.
    #[inline(always)]
    fn max_lane(self, v: Self::V) -> f32 {
        self.fold(v, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn fold(self, v: Self::V, f: impl Fn(f32, f32) -> f32) -> f32 {
        let mut x = [0.0; LANES];
        self.store(v, &mut x);
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                x[i] = f(x[i], x[i + half]);
            }
        }
        x[0]
    }

    /// The first `x.len()` (at most 16) values, `fill` in the rest.
    #[inline(always)]
    fn load_part(self, x: &[f32], fill: f32) -> Self::V {
        let mut full = [fill; LANES];
        full[..x.len()].copy_from_slice(x);
        self.load(&full)
    }

    /// Stores the first `out.len()` (at most 16) lanes.
    #[inline(always)]
    fn store_part(self, v: Self::V, out: &mut [f32]) {
        let mut full = [0.0; LANES];
        self.store(v, &mut full);
        out.copy_from_slice(&full[..out.len()]);
    }
}
