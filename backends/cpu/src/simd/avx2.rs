//! AVX2 with FMA: two registers a vector.

use super::{LANES, Simd};
use std::arch::x86_64::*;

/// Proof that this CPU has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    pub(crate) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }
}

/// Each call is sound because a value of `Avx2` exists only where the CPU was seen to have the instructions.
macro_rules! sound {
    ($e:expr) => {
        // SAFETY: see the macro's comment; memory is reached only through the references given, of the full width.
        unsafe { $e }
    };
}

type V = [__m256; 2];

#[inline(always)]
fn zip(a: V, b: V, f: impl Fn(__m256, __m256) -> __m256) -> V {
    [f(a[0], b[0]), f(a[1], b[1])]
}

impl Simd for Avx2 {
    type V = V;
    const ROWS: usize = 6;

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        let v = sound!(_mm256_set1_ps(x));
        [v, v]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> V {
        sound!([_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))])
    }
    #[inline(always)]
    fn store(self, v: V, out: &mut [f32; LANES]) {
        sound!({
            _mm256_storeu_ps(out.as_mut_ptr(), v[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), v[1]);
        })
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        zip(a, b, |a, b| sound!(_mm256_add_ps(a, b)))
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        zip(a, b, |a, b| sound!(_mm256_sub_ps(a, b)))
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        zip(a, b, |a, b| sound!(_mm256_mul_ps(a, b)))
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        zip(a, b, |a, b| sound!(_mm256_div_ps(a, b)))
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        zip(a, b, |a, b| sound!(_mm256_max_ps(a, b)))
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        zip(a, b, |a, b| sound!(_mm256_min_ps(a, b)))
    }
    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        sound!([_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])])
    }
    #[inline(always)]
    fn select_lt(self, a: V, b: V, x: V, y: V) -> V {
        std::array::from_fn(|i| sound!(_mm256_blendv_ps(y[i], x[i], _mm256_cmp_ps::<_CMP_LT_OQ>(a[i], b[i]))))
    }
    #[inline(always)]
    fn round(self, v: V) -> V {
        v.map(|v| sound!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v)))
    }
    #[inline(always)]
    fn exp2_int(self, n: V) -> V {
        n.map(|n| {
            sound!({
                let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
            })
        })
    }
    #[inline(always)]
    fn widen_bf16(self, x: &[u16; LANES]) -> V {
        std::array::from_fn(|i| {
            sound!({
                let half = _mm_loadu_si128(x.as_ptr().add(8 * i).cast());
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(half)))
            })
        })
    }
    #[inline(always)]
    fn narrow_bf16(self, v: V, out: &mut [u16; LANES]) {
        let top = v.map(|v| {
            sound!({
                let bits = _mm256_castps_si256(v);
                let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
                let rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
                let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
                let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
                _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan))
            })
        });
        sound!({
            let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(top[0], top[1]));
            _mm256_storeu_si256(out.as_mut_ptr().cast(), packed)
        })
    }
    #[inline(always)]
    fn widen_f16(self, x: &[u16; LANES]) -> V {
        std::array::from_fn(|i| sound!(_mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().add(8 * i).cast()))))
    }
    #[inline(always)]
    fn widen_bf16_pairs(self, x: &[u16; 2 * LANES]) -> (V, V) {
        let pairs: [__m256i; 2] =
            std::array::from_fn(|i| sound!(_mm256_loadu_si256(x.as_ptr().add(16 * i).cast())));
        let first = pairs.map(|p| sound!(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(p))));
        let high = sound!(_mm256_set1_epi32(0xffff_0000_u32 as i32));
        let second = pairs.map(|p| sound!(_mm256_castsi256_ps(_mm256_and_si256(p, high))));
        (first, second)
    }
}
