//! Which kernel computes a linear layer, and how many blocks share a tile's range of K.
//!
//! Invariant: depends on shapes and the device alone, so that a captured graph stays right. The numbers are those that
//! lost least against the best of all plans, measured on an H200 for the layers of a 1B and an 8B model and 1 to 1024 rows.

use tokenmill_backend_model::device::Dtype;

use super::tile::{F32, LARGE, SMALL, Tile};

/// A linear layer: `[m, k] x [n, k]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    pub dtype: Dtype,
    pub m: u32,
    pub n: u32,
    pub k: u32,
}

/// What the choice depends on besides the layer.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    pub multiprocessors: u32,
    /// Bytes of shared memory that one block may ask for.
    pub shared: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub tile: &'static Tile,
    /// Blocks per tile, each with its own part of K.
    pub splits: u32,
}

/// Up to here every warp may read all rows for its own weights; beyond, shared memory would be the limit.
pub const SMALL_ROWS: u32 = 32;
/// What a block without another on its multiprocessor reaches, where there could be more.
const ALONE: f32 = 0.66;
/// f32 kernels of few rows read the weights once per 8 rows.
const FEW_F32_ROWS: u32 = 16;

impl Plan {
    /// Few rows are bound by the weights' bandwidth, many by the tensor cores; f32 has no tensor cores.
    pub fn of(layer: &Layer, machine: &Machine) -> Self {
        match layer.dtype {
            Dtype::F32 => Self { tile: f32_tile(layer, machine), splits: 1 },
            _ if layer.m <= SMALL_ROWS => Self::small(layer, machine),
            _ => Self::large(layer, machine),
        }
    }

    /// The smallest tile that holds all rows. K is split until there are two blocks per multiprocessor, which keep its
    /// bandwidth busy while one of them begins or ends: as long as a block's part is worth the wait for the others.
    fn small(layer: &Layer, machine: &Machine) -> Self {
        let tile = SMALL.iter().find(|tile| tile.m >= layer.m).unwrap_or(&SMALL[SMALL.len() - 1]);
        let wanted = 2 * machine.multiprocessors / layer.n.div_ceil(tile.n).max(1);
        let shortest = if tile.m > 16 { 512 } else { 2048 };
        Self { tile, splits: wanted.min(layer.k / shortest).max(1) }
    }

    /// The tile and the split that keep the busiest multiprocessor busy for the shortest time.
    fn large(layer: &Layer, machine: &Machine) -> Self {
        let mut best = Self { tile: &LARGE[LARGE.len() - 1], splits: 1 };
        let mut least = f32::INFINITY;
        for tile in &LARGE {
            let tiles = tiles(tile, layer);
            // All blocks that share a tile run at the same time, or the workspace would not hold their sums.
            let resident = machine.multiprocessors * resident(tile, machine);
            let most = (resident / tiles.max(1)).clamp(1, 16).min((layer.k / 256).max(1));
            for splits in (1..=most).filter(|_| resident > 0) {
                let cost = cost(tile, tiles, splits, layer, machine);
                if cost < least {
                    (best, least) = (Self { tile, splits }, cost);
                }
            }
        }
        best
    }
}

fn tiles(tile: &Tile, layer: &Layer) -> u32 {
    layer.m.div_ceil(tile.m) * layer.n.div_ceil(tile.n)
}

/// Blocks of a large tile that a multiprocessor holds; none if even one takes too much shared memory.
fn resident(tile: &Tile, machine: &Machine) -> u32 {
    // Of each block's shared memory the system takes 1 KB more.
    tile.blocks.min((machine.shared + 1024) / (tile.shared + 1024))
}

/// Multiplications of the busiest multiprocessor, weighed by what smaller tiles lose to shared memory and L2, and by what a
/// block alone loses while it waits for memory. Split sums cost a block as much as 80 of K, and 50 for each split to read.
fn cost(tile: &Tile, tiles: u32, splits: u32, layer: &Layer, machine: &Machine) -> f32 {
    let each = (tiles * splits).div_ceil(machine.multiprocessors);
    let k = layer.k.div_ceil(splits) + if splits > 1 { 80 + 50 * splits } else { 0 };
    let efficiency = match (tile.m, tile.n) {
        (256, _) => 1.0,
        (128, _) => 0.97,
        (_, 128) => 0.87,
        _ => 0.74,
    };
    let company = if each == 1 && tile.blocks > 1 { ALONE } else { 1.0 };
    each as f32 * (tile.m * tile.n) as f32 * k as f32 / (efficiency * company)
}

/// The largest tile of which there are enough for every multiprocessor.
fn f32_tile(layer: &Layer, machine: &Machine) -> &'static Tile {
    let [few, middle, large] = &F32;
    if layer.m <= FEW_F32_ROWS {
        few
    } else if tiles(large, layer) < machine.multiprocessors {
        middle
    } else {
        large
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H100: Machine = Machine { multiprocessors: 132, shared: 227 << 10 };
    const RTX4090: Machine = Machine { multiprocessors: 128, shared: 99 << 10 };

    fn plan(m: u32, n: u32, k: u32) -> (&'static str, u32) {
        let plan = Plan::of(&Layer { dtype: Dtype::Bf16, m, n, k }, &H100);
        (plan.tile.names[0], plan.splits)
    }

    #[test]
    fn few_rows_get_about_two_blocks_per_multiprocessor_while_k_is_long_enough() {
        assert_eq!(plan(1, 28672, 4096), ("gemm_small_bf16_8x16", 1));
        assert_eq!(plan(1, 4096, 4096), ("gemm_small_bf16_8x16", 1));
        assert_eq!(plan(8, 1024, 14336), ("gemm_small_bf16_8x16", 4));
        assert_eq!(plan(9, 2048, 2048), ("gemm_small_bf16_16x32", 1));
        assert_eq!(plan(16, 4096, 4096), ("gemm_small_bf16_16x32", 2));
        assert_eq!(plan(32, 4096, 14336), ("gemm_small_bf16_32x64", 4));
        assert_eq!(plan(33, 128256, 4096).1, 1);
    }

    #[test]
    fn many_rows_get_the_largest_tile_and_fewer_rows_still_fill_the_machine() {
        assert_eq!(plan(8192, 8192, 8192), ("gemm_bf16_256x128", 1));
        assert_eq!(plan(2048, 28672, 4096), ("gemm_bf16_256x128", 1));
        for (m, n, k) in [(65, 4096, 4096), (128, 4096, 4096), (200, 4096, 14336), (512, 4096, 4096)] {
            let layer = Layer { dtype: Dtype::Bf16, m, n, k };
            let Plan { tile, splits } = Plan::of(&layer, &H100);
            let blocks = tiles(tile, &layer) * splits;
            assert!((100..=3 * 132).contains(&blocks), "{layer:?}: {blocks} blocks");
        }
    }

    #[test]
    fn tiles_that_do_not_fit_the_shared_memory_are_not_taken() {
        for m in [65, 300, 8192] {
            for n in [256, 4096, 28672] {
                let plan = Plan::of(&Layer { dtype: Dtype::F16, m, n, k: 4096 }, &RTX4090);
                assert!(plan.tile.shared <= RTX4090.shared, "{m} {n}");
            }
        }
    }

    #[test]
    fn partial_sums_fit_the_workspace_whatever_the_layer() {
        for machine in [H100, RTX4090] {
            for m in [1, 7, 9, 16, 17, 40, 64, 65, 128, 200, 1000] {
                for n in [1, 64, 576, 1536, 4096, 28672, 128256] {
                    for k in [8, 64, 576, 4096, 53248] {
                        let layer = Layer { dtype: Dtype::Bf16, m, n, k };
                        let Plan { tile, splits } = Plan::of(&layer, &machine);
                        let blocks = (tiles(tile, &layer) * splits) as usize;
                        let room = super::super::Workspace::partial_bytes(machine.multiprocessors);
                        assert!(splits == 1 || blocks * tile.partials() * 4 <= room, "{layer:?}");
                        assert!(splits == 1 || splits <= k.div_ceil(64), "{layer:?}");
                    }
                }
            }
        }
    }
}
