//! Plain arrays: runs anywhere, and the compiler makes vectors of it where it can.

use super::{LANES, Simd};
use half::{bf16, f16};
use std::array::from_fn;

#[derive(Clone, Copy)]
pub struct Portable;

type V = [f32; LANES];

impl Simd for Portable {
    type V = V;
    const ROWS: usize = 2;

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> V {
        *x
    }
    #[inline(always)]
    fn store(self, v: V, out: &mut [f32; LANES]) {
        *out = v;
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    /// Two roundings: a fused one is a library call where the machine has no instruction for it.
    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn select_lt(self, a: V, b: V, x: V, y: V) -> V {
        from_fn(|i| if a[i] < b[i] { x[i] } else { y[i] })
    }
    /// Adding 1.5 * 2^23 leaves no fraction bits.
    #[inline(always)]
    fn round(self, v: V) -> V {
        const MAGIC: f32 = 12_582_912.0;
        v.map(|x| (x + MAGIC) - MAGIC)
    }
    #[inline(always)]
    fn exp2_int(self, n: V) -> V {
        n.map(|n| f32::from_bits(((n as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    fn widen_bf16(self, x: &[u16; LANES]) -> V {
        from_fn(|i| f32::from_bits(u32::from(x[i]) << 16))
    }
    #[inline(always)]
    fn narrow_bf16(self, v: V, out: &mut [u16; LANES]) {
        *out = v.map(|x| bf16::from_f32(x).to_bits());
    }
    #[inline(always)]
    fn widen_f16(self, x: &[u16; LANES]) -> V {
        from_fn(|i| f16::from_bits(x[i]).to_f32())
    }
    #[inline(always)]
    fn widen_bf16_pairs(self, x: &[u16; 2 * LANES]) -> (V, V) {
        let wide = |h: u16| f32::from_bits(u32::from(h) << 16);
        (from_fn(|i| wide(x[2 * i])), from_fn(|i| wide(x[2 * i + 1])))
    }
}
