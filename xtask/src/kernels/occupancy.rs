//! How many blocks of threads a multiprocessor holds, by the registers they take.

/// Of all architectures here.
const REGISTERS: u32 = 65_536;
const WARP: u32 = 32;
/// Registers are given to warps in pieces of this many …
const PIECE: u32 = 256;
/// … and warps are spread over this many schedulers.
const SCHEDULERS: u32 = 4;

/// NVIDIA's CUDA C programming guide, technical specifications per compute capability.
pub(super) struct Multiprocessor {
    threads: u32,
    blocks: u32,
}

impl Multiprocessor {
    pub(super) fn of(arch: &str) -> Self {
        match arch {
            "sm_86" => Self { threads: 1536, blocks: 16 },
            "sm_89" => Self { threads: 1536, blocks: 24 },
            _ => Self { threads: 2048, blocks: 32 },
        }
    }

    /// Blocks of `threads` threads that fit, if shared memory does not stop them.
    pub(super) fn blocks(&self, registers: u32, threads: u32) -> u32 {
        let by_threads = self.threads / threads.max(1);
        self.blocks_by_registers(registers, threads).min(by_threads).min(self.blocks)
    }

    /// The same by registers alone.
    pub(super) fn blocks_by_registers(&self, registers: u32, threads: u32) -> u32 {
        let of_warp = (registers.max(1) * WARP).next_multiple_of(PIECE);
        let warps = REGISTERS / SCHEDULERS / of_warp * SCHEDULERS;
        warps / threads.div_ceil(WARP).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As NVIDIA's occupancy calculator says.
    #[test]
    fn registers_limit_blocks() {
        let ampere = Multiprocessor::of("sm_80");
        assert_eq!(ampere.blocks(128, 256), 2);
        assert_eq!(ampere.blocks(129, 256), 1);
        assert_eq!(ampere.blocks(80, 256), 3);
        assert_eq!(ampere.blocks(168, 384), 1);
        assert_eq!(ampere.blocks(16, 1024), 2);
    }

    #[test]
    fn smaller_chips_hold_fewer_threads() {
        assert_eq!(Multiprocessor::of("sm_89").blocks(32, 1024), 1);
        assert_eq!(Multiprocessor::of("sm_86").blocks(32, 64), 16);
    }
}
