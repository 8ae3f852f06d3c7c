//! The kernels of linear layers and the tile of the output that a block of each computes.

/// How a kernel's grid is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `gemm_small.cu`: all rows in one tile; (tiles of N, splits of K).
    Small,
    /// `gemm.cu`: (tiles of M and N, splits of K).
    Large,
    /// `gemm_f32.cu`: (tiles of N, tiles of M), K is not split.
    F32,
}

/// A kernel: `m` x `n` outputs per block.
#[derive(Debug, PartialEq, Eq)]
pub struct Tile {
    pub kind: Kind,
    pub m: u32,
    pub n: u32,
    /// Of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared: u32,
    /// Blocks that the registers of a multiprocessor allow.
    pub blocks: u32,
    /// For bf16 and f16; the first alone for f32.
    pub names: [&'static str; 2],
}

impl Tile {
    /// Sums that a block leaves in the workspace when K is split.
    pub const fn partials(&self) -> usize {
        let values = self.m * self.n;
        (if values < self.threads { self.threads } else { values }) as usize
    }
}

/// 8 warps of 16 weight rows and each group's rows of x, 64 of K in each of three stages.
const fn small_shared(m: u32, n: u32) -> u32 {
    let groups = 8 / (n / 16);
    3 * 128 * (8 * 16 + groups * m)
}

macro_rules! small {
    ($m:literal, $n:literal, $blocks:literal) => {
        Tile {
            kind: Kind::Small,
            m: $m,
            n: $n,
            threads: 256,
            shared: small_shared($m, $n),
            blocks: $blocks,
            names: [concat!("gemm_small_bf16_", $m, "x", $n), concat!("gemm_small_f16_", $m, "x", $n)],
        }
    };
}

macro_rules! large {
    ($m:literal, $n:literal, $k:literal, $stages:literal, $threads:literal, $blocks:literal) => {
        Tile {
            kind: Kind::Large,
            m: $m,
            n: $n,
            threads: $threads,
            shared: $stages * ($m + $n) * $k * 2,
            blocks: $blocks,
            names: [concat!("gemm_bf16_", $m, "x", $n), concat!("gemm_f16_", $m, "x", $n)],
        }
    };
}

macro_rules! f32_tile {
    ($m:literal, $n:literal, $threads:literal, $blocks:literal) => {
        Tile {
            kind: Kind::F32,
            m: $m,
            n: $n,
            threads: $threads,
            shared: 0,
            blocks: $blocks,
            names: [concat!("gemm_f32_", $m, "x", $n), ""],
        }
    };
}

/// The fewest rows first.
pub static SMALL: [Tile; 3] = [small!(8, 16, 3), small!(16, 32, 3), small!(32, 64, 2)];

/// The largest first.
pub static LARGE: [Tile; 4] = [
    large!(256, 128, 64, 3, 256, 1),
    large!(128, 128, 32, 4, 128, 2),
    large!(64, 128, 64, 3, 128, 3),
    large!(64, 64, 64, 4, 128, 3),
];

/// The smallest first.
pub static F32: [Tile; 3] =
    [f32_tile!(8, 16, 128, 4), f32_tile!(64, 64, 256, 4), f32_tile!(128, 128, 256, 2)];

/// Partial sums of as many blocks as a multiprocessor runs at once fit here: K is never split further.
pub(super) const PARTIAL_BYTES_PER_MULTIPROCESSOR: usize = 128 << 10;

const _: () = {
    let mut i = 0;
    while i < SMALL.len() {
        assert!(SMALL[i].partials() * 4 * SMALL[i].blocks as usize <= PARTIAL_BYTES_PER_MULTIPROCESSOR);
        i += 1;
    }
    let mut i = 0;
    while i < LARGE.len() {
        assert!(LARGE[i].partials() * 4 * LARGE[i].blocks as usize <= PARTIAL_BYTES_PER_MULTIPROCESSOR);
        i += 1;
    }
};
