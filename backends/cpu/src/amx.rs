//! AMX tiles: bf16 products with f32 sums.
//!
//! The instructions are written as inline assembly because their intrinsics are not stable. A product of tiles
//! adds, for each output, the even and the odd half of 32 terms in rising order and then their sum to the
//! accumulator (Intel SDM, TDPBF16PS), so a row's result does not depend on the rows beside it.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

/// Inner elements of one tile product.
pub(crate) const INNER: usize = 32;
/// Rows of one tile of activations.
pub(crate) const ROWS: usize = 16;
/// Elements of a tile of bf16: 1 KiB.
pub(crate) const TILE: usize = ROWS * INNER;

/// How far ahead weights are fetched; 1 KiB tiles of two panels arrive per step.
const AHEAD: usize = 6 * 1024;

/// Proof that this process may use AMX tiles with bf16.
#[derive(Clone, Copy)]
pub struct Amx(());

impl Amx {
    /// Asks the CPU, then the kernel for permission to keep tile data.
    pub(crate) fn detect() -> Option<Amx> {
        const TILE_BF16: u32 = 1 << 22 | 1 << 24;
        // SAFETY: cpuid exists on every x86-64 CPU; xgetbv where bit 27 (OSXSAVE) of leaf 1 says so.
        let ready = unsafe {
            __cpuid(0).eax >= 7
                && __cpuid_count(7, 0).edx & TILE_BF16 == TILE_BF16
                && __cpuid(1).ecx & 1 << 27 != 0
                && xcr0() & 0x6_0000 == 0x6_0000
        };
        (ready && permitted()).then_some(Amx(()))
    }
}

#[target_feature(enable = "xsave")]
unsafe fn xcr0() -> u64 {
    // SAFETY: the caller checked OSXSAVE.
    unsafe { _xgetbv(0) }
}

/// Linux keeps tile data only for processes that asked (Documentation/arch/x86/xstate.rst).
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    #[cfg(target_os = "linux")]
    // SAFETY: a system call without pointers.
    return unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) } == 0;
    #[cfg(not(target_os = "linux"))]
    return false;
}

/// Tiles 0..4 are sums (two row tiles by two panels), 4 and 5 activations, 6 and 7 weights.
#[repr(C, align(64))]
struct Config([u8; 64]);

impl Config {
    fn new(first_rows: usize, second_rows: usize) -> Config {
        let mut c = [0; 64];
        c[0] = 1;
        for (tile, rows) in
            [first_rows, first_rows, second_rows, second_rows, first_rows, second_rows, ROWS, ROWS]
                .into_iter()
                .enumerate()
        {
            c[16 + 2 * tile] = 64;
            c[48 + tile] = rows.max(1) as u8;
        }
        Config(c)
    }
}

/// Up to 32 rows times one or two panels of 16 columns.
pub struct Block {
    /// Activations in tiles `[rows / 16][inner / 32][16][32]`.
    pub x: *const u16,
    /// 1..=32; the tiles hold more rows than that, whose content does not matter.
    pub rows: usize,
    /// One or two weight panels `[inner / 2][16][2]`.
    pub panels: [*const u16; 2],
    pub n_panels: usize,
    /// Inner elements over 32, at least 1.
    pub steps: usize,
    /// Fetch ahead: for weights that come from memory.
    pub fetch: bool,
}

/// Sums of a block: `[row tile][panel][16 rows][16 columns]`.
#[repr(C, align(64))]
pub struct Sums(pub [[[[f32; 16]; ROWS]; 2]; 2]);

impl Sums {
    pub fn zero() -> Sums {
        Sums([[[[0.0; 16]; ROWS]; 2]; 2])
    }
}

/// The sixteen lines of the weight tile `AHEAD` bytes after the one in `$panel`.
macro_rules! fetch {
    ($panel:literal) => {
        concat!(
            fetch!(@four $panel, "0", "64", "128", "192"),
            fetch!(@four $panel, "256", "320", "384", "448"),
            fetch!(@four $panel, "512", "576", "640", "704"),
            fetch!(@four $panel, "768", "832", "896", "960"),
        )
    };
    (@four $panel:literal, $($line:literal),*) => {
        concat!($("prefetcht0 [{", $panel, "} + {ahead} + ", $line, "]\n"),*)
    };
}

/// The loop over inner steps: loads, fetches and products as given, then the sums go to `$sums`.
macro_rules! tile_loop {
    ($block:expr, $sums:expr, [$($step:expr),*], [$($store:expr),*]) => {{
        let second = $block.x.wrapping_add($block.steps * TILE);
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            $($step,)*
            "add {x0}, 1024",
            "add {x1}, 1024",
            "add {w0}, 1024",
            "add {w1}, 1024",
            "dec {n}",
            "jnz 2b",
            $($store,)*
            "/* {ahead} */",
            x0 = inout(reg) $block.x => _,
            x1 = inout(reg) second => _,
            w0 = inout(reg) $block.panels[0] => _,
            w1 = inout(reg) $block.panels[1] => _,
            n = inout(reg) $block.steps => _,
            line = in(reg) 64usize,
            sums = in(reg) $sums,
            ahead = const AHEAD,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    }};
}

const _: () = assert!(TILE * 2 == 1024, "the loops step by one tile");

/// Two row tiles by two panels: 16 products for 8 loads, so the multiplier never waits for weights in cache.
macro_rules! two_by_two {
    ($block:expr, $sums:expr, $($fetch:expr),*) => {
        tile_loop!($block, $sums, [
            "tileloadd tmm6, [{w0} + {line}*1]",
            "tileloadd tmm4, [{x0} + {line}*1]",
            "tileloadd tmm7, [{w1} + {line}*1]",
            "tileloadd tmm5, [{x1} + {line}*1]",
            $($fetch,)*
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7"
        ], [
            "tilestored [{sums} + {line}*1], tmm0",
            "tilestored [{sums} + {line}*1 + 1024], tmm1",
            "tilestored [{sums} + {line}*1 + 2048], tmm2",
            "tilestored [{sums} + {line}*1 + 3072], tmm3"
        ])
    };
}

macro_rules! one_by_two {
    ($block:expr, $sums:expr, $($fetch:expr),*) => {
        tile_loop!($block, $sums, [
            "tileloadd tmm4, [{x0} + {line}*1]",
            "tileloadd tmm6, [{w0} + {line}*1]",
            "tileloadd tmm7, [{w1} + {line}*1]",
            $($fetch,)*
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7"
        ], [
            "tilestored [{sums} + {line}*1], tmm0",
            "tilestored [{sums} + {line}*1 + 1024], tmm1"
        ])
    };
}

/// The last panel of an odd count.
macro_rules! by_one {
    ($block:expr, $sums:expr) => {
        tile_loop!(
            $block,
            $sums,
            [
                "tileloadd tmm6, [{w0} + {line}*1]",
                "tileloadd tmm4, [{x0} + {line}*1]",
                "tileloadd tmm5, [{x1} + {line}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm2, tmm5, tmm6"
            ],
            ["tilestored [{sums} + {line}*1], tmm0", "tilestored [{sums} + {line}*1 + 2048], tmm2"]
        )
    };
}

macro_rules! one_by_one {
    ($block:expr, $sums:expr) => {
        tile_loop!(
            $block,
            $sums,
            [
                "tileloadd tmm6, [{w0} + {line}*1]",
                "tileloadd tmm4, [{x0} + {line}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6"
            ],
            ["tilestored [{sums} + {line}*1], tmm0"]
        )
    };
}

/// Tiles in use by this thread, configured for some number of rows.
pub struct Tiles {
    rows: usize,
}

impl Amx {
    /// Tiles stay configured until the value is dropped.
    pub fn tiles(self) -> Tiles {
        Tiles { rows: 0 }
    }
}

impl Tiles {
    fn configure(&mut self, rows: usize) {
        if self.rows != rows {
            let config = Config::new(rows.min(ROWS), rows.saturating_sub(ROWS));
            // SAFETY: `Amx` proved that tiles may be used; the configuration is valid for palette 1.
            unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
            self.rows = rows;
        }
    }

    /// `sums[i][p] = x[i] · panels[p]`.
    ///
    /// # Safety
    /// The block's pointers are readable for the sizes its fields state.
    #[inline]
    pub unsafe fn multiply(&mut self, b: &Block, sums: &mut Sums) {
        self.configure(b.rows);
        let out = sums.0.as_mut_ptr();
        // SAFETY: the caller vouches for what is read; `sums` holds four tiles; prefetches cannot fault.
        unsafe {
            match (b.rows > ROWS, b.n_panels, b.fetch) {
                (true, 2, false) => two_by_two!(b, out,),
                (true, 2, true) => two_by_two!(b, out, fetch!("w0"), fetch!("w1")),
                (false, 2, false) => one_by_two!(b, out,),
                (false, 2, true) => one_by_two!(b, out, fetch!("w0"), fetch!("w1")),
                (true, ..) => by_one!(b, out),
                (false, ..) => one_by_one!(b, out),
            }
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        if self.rows != 0 {
            // SAFETY: tiles were configured by this thread. Releasing them keeps context switches cheap.
            unsafe { asm!("tilerelease", options(nostack, nomem)) };
        }
    }
}
