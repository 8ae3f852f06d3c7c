//! NEON: four registers a vector.

use super::{LANES, Simd};
use std::arch::{aarch64::*, asm};
use std::array::from_fn;

/// NEON is part of every aarch64 CPU.
#[derive(Clone, Copy)]
pub struct Neon;

/// Each call is sound because NEON is part of the aarch64 baseline.
macro_rules! sound {
    ($e:expr) => {
        // SAFETY: see the macro's comment; memory is reached only through the references given, of the full width.
        unsafe { $e }
    };
}

type V = [float32x4_t; 4];

impl Simd for Neon {
    type V = V;
    const ROWS: usize = 6;

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        [sound!(vdupq_n_f32(x)); 4]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> V {
        from_fn(|i| sound!(vld1q_f32(x.as_ptr().add(4 * i))))
    }
    #[inline(always)]
    fn store(self, v: V, out: &mut [f32; LANES]) {
        for (i, v) in v.into_iter().enumerate() {
            sound!(vst1q_f32(out.as_mut_ptr().add(4 * i), v));
        }
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        from_fn(|i| sound!(vaddq_f32(a[i], b[i])))
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        from_fn(|i| sound!(vsubq_f32(a[i], b[i])))
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        from_fn(|i| sound!(vmulq_f32(a[i], b[i])))
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        from_fn(|i| sound!(vdivq_f32(a[i], b[i])))
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        from_fn(|i| sound!(vbslq_f32(vcgtq_f32(a[i], b[i]), a[i], b[i])))
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        from_fn(|i| sound!(vbslq_f32(vcltq_f32(a[i], b[i]), a[i], b[i])))
    }
    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        from_fn(|i| sound!(vfmaq_f32(c[i], a[i], b[i])))
    }
    #[inline(always)]
    fn select_lt(self, a: V, b: V, x: V, y: V) -> V {
        from_fn(|i| sound!(vbslq_f32(vcltq_f32(a[i], b[i]), x[i], y[i])))
    }
    #[inline(always)]
    fn round(self, v: V) -> V {
        v.map(|v| sound!(vrndnq_f32(v)))
    }
    #[inline(always)]
    fn exp2_int(self, n: V) -> V {
        n.map(|n| {
            sound!({
                let biased = vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127));
                vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
            })
        })
    }
    #[inline(always)]
    fn widen_bf16(self, x: &[u16; LANES]) -> V {
        from_fn(|i| sound!(vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(x.as_ptr().add(4 * i))))))
    }
    #[inline(always)]
    fn narrow_bf16(self, v: V, out: &mut [u16; LANES]) {
        for (i, v) in v.into_iter().enumerate() {
            sound!({
                let bits = vreinterpretq_u32_f32(v);
                let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
                let rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
                let quiet = vorrq_u32(bits, vdupq_n_u32(0x0040_0000));
                let kept = vbslq_u32(vceqq_f32(v, v), rounded, quiet);
                vst1_u16(out.as_mut_ptr().add(4 * i), vshrn_n_u32::<16>(kept));
            })
        }
    }
    #[inline(always)]
    fn widen_f16(self, x: &[u16; LANES]) -> V {
        from_fn(|i| sound!(f16_to_f32(vld1_u16(x.as_ptr().add(4 * i)))))
    }
    #[inline(always)]
    fn widen_bf16_pairs(self, x: &[u16; 2 * LANES]) -> (V, V) {
        let pairs: [uint32x4_t; 4] =
            from_fn(|i| sound!(vreinterpretq_u32_u16(vld1q_u16(x.as_ptr().add(8 * i)))));
        let first = pairs.map(|p| sound!(vreinterpretq_f32_u32(vshlq_n_u32::<16>(p))));
        let high = sound!(vdupq_n_u32(0xffff_0000));
        (first, pairs.map(|p| sound!(vreinterpretq_f32_u32(vandq_u32(p, high)))))
    }
}

/// `fcvtl`, of which the intrinsic is not stable.
#[inline(always)]
fn f16_to_f32(half: uint16x4_t) -> float32x4_t {
    let wide;
    sound!(asm!(
        "fcvtl {wide:v}.4s, {half:v}.4h",
        wide = lateout(vreg) wide,
        half = in(vreg) half,
        options(pure, nomem, nostack, preserves_flags),
    ));
    wide
}
