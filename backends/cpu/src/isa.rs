//! Which instruction set runs the kernels, chosen once.

use crate::simd::{Simd, portable::Portable};
#[cfg(target_arch = "x86_64")]
use crate::simd::{avx2::Avx2, avx512::Avx512};

/// A computation written once for every instruction set.
///
/// `run` must be `#[inline(always)]`, so that it is compiled with the instructions of its caller here.
pub trait Kernel {
    type Out;
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

/// Instruction sets this process may use; a value is proof of the CPU's support.
#[derive(Clone, Copy)]
pub enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "aarch64")]
    Neon(crate::simd::neon::Neon),
    Portable(Portable),
}

impl Isa {
    /// All sets of this machine, the fastest first.
    pub fn available() -> Vec<Isa> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            found.extend(Avx512::detect().map(Isa::Avx512));
            found.extend(Avx2::detect().map(Isa::Avx2));
        }
        #[cfg(target_arch = "aarch64")]
        found.push(Isa::Neon(crate::simd::neon::Neon));
        found.push(Isa::Portable(Portable));
        found
    }

    pub fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) => "AVX-512",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) => "AVX2",
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(_) => "NEON",
            Isa::Portable(_) => "portable",
        }
    }

    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Out {
        match self {
            // SAFETY: the token proves that the CPU has the instructions.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(s) => unsafe { on_avx512(kernel, s) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(s) => unsafe { on_avx2(kernel, s) },
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(s) => kernel.run(s),
            Isa::Portable(s) => kernel.run(s),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn on_avx512<K: Kernel>(kernel: K, s: Avx512) -> K::Out {
    kernel.run(s)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn on_avx2<K: Kernel>(kernel: K, s: Avx2) -> K::Out {
    kernel.run(s)
}
