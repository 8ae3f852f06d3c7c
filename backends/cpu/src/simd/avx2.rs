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

/// An intrinsic on both halves. Here and below no closures: one would be compiled without the caller's instructions,
/// and each intrinsic in it a call.
macro_rules! both {
    ($f:path, $a:expr $(, $b:expr)*) => {
        sound!([$f($a[0] $(, $b[0])*), $f($a[1] $(, $b[1])*)])
    };
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
        both!(_mm256_add_ps, a, b)
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        both!(_mm256_sub_ps, a, b)
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        both!(_mm256_mul_ps, a, b)
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        both!(_mm256_div_ps, a, b)
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        both!(_mm256_max_ps, a, b)
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        both!(_mm256_min_ps, a, b)
    }
    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        both!(_mm256_fmadd_ps, a, b, c)
    }
    #[inline(always)]
    fn select_lt(self, a: V, b: V, x: V, y: V) -> V {
        let less = both!(_mm256_cmp_ps::<_CMP_LT_OQ>, a, b);
        both!(_mm256_blendv_ps, y, x, less)
    }
    #[inline(always)]
    fn round(self, v: V) -> V {
        both!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>, v)
    }
    #[inline(always)]
    fn exp2_int(self, n: V) -> V {
        both!(exp2_int, n)
    }
    #[inline(always)]
    fn widen_bf16(self, x: &[u16; LANES]) -> V {
        both!(widen, halves(x))
    }
    #[inline(always)]
    fn narrow_bf16(self, v: V, out: &mut [u16; LANES]) {
        let top = both!(round_to_bf16, v);
        sound!({
            let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(top[0], top[1]));
            _mm256_storeu_si256(out.as_mut_ptr().cast(), packed)
        })
    }
    #[inline(always)]
    fn widen_f16(self, x: &[u16; LANES]) -> V {
        both!(_mm256_cvtph_ps, halves(x))
    }
    #[inline(always)]
    fn widen_bf16_pairs(self, x: &[u16; 2 * LANES]) -> (V, V) {
        let (low, high): (*const u16, *const u16) = (x.as_ptr(), x[LANES..].as_ptr());
        let pairs = sound!([_mm256_loadu_si256(low.cast()), _mm256_loadu_si256(high.cast())]);
        (both!(first_of_pair, pairs), both!(second_of_pair, pairs))
    }
}

/// Eight 16-bit lanes each.
#[inline(always)]
fn halves(x: &[u16; LANES]) -> [__m128i; 2] {
    sound!([_mm_loadu_si128(x.as_ptr().cast()), _mm_loadu_si128(x[8..].as_ptr().cast())])
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn exp2_int(n: __m256) -> __m256 {
    let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen(bf16: __m128i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bf16)))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn first_of_pair(pair: __m256i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pair))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn second_of_pair(pair: __m256i) -> __m256 {
    _mm256_castsi256_ps(_mm256_and_si256(pair, _mm256_set1_epi32(0xffff_0000_u32 as i32)))
}

/// Bits of the nearest bf16 in the low halves.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn round_to_bf16(v: __m256) -> __m256i {
    let bits = _mm256_castps_si256(v);
    let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
    let rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
    let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
    _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan))
}
