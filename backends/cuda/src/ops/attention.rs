//! Attention over the paged cache: tiles of queries for sequences with several, split keys for those with one, and
//! a plain kernel for types and head dimensions that have no matrix instructions.

use tokenmill_backend_model::device::{Attention, CacheShape, Dtype};
use tokenmill_backend_model::error::Error;

use crate::batch::{Batch, TileTokens};
use crate::buffer::{Buffer, Cache};
use crate::gpu::{Arg, Gpu, Grid};
use crate::memory::Memory;

const THREADS: u32 = 128;
/// Heads of a block of `attention_generic`: one a warp.
const WARPS: usize = 4;
/// Largest head dimension of `attention_generic`.
const MAX_DIM: usize = 256;
/// Keys of a piece that are worth a block: see `attention_decode.cu`.
const SHORT_PIECE: usize = 128;
/// Long sequences are cut however many there are, as lengths may differ much.
const MIN_SPLITS: usize = 8;
const MAX_SPLITS: usize = 64;

/// `operation_type_dim`, if there is such a kernel.
macro_rules! sized {
    ($operation:literal, $dtype:expr, $dim:expr, [$($known:literal)*]) => {
        match ($dtype, $dim) {
            $((Dtype::Bf16, $known) => Some(concat!($operation, "_bf16_", $known)),
            (Dtype::F16, $known) => Some(concat!($operation, "_f16_", $known)),)*
            _ => None,
        }
    };
}

/// Where the pieces of decoded sequences wait to be merged.
pub struct Workspace {
    partial: Memory,
    /// A zero per sequence and block of its heads; kernels leave them so.
    counters: Memory,
}

impl Workspace {
    /// Room for steps of up to `max_seqs` sequences.
    pub fn new(gpu: &Gpu, shape: &CacheShape, max_seqs: usize) -> Result<Self, Error> {
        let multiprocessors = gpu.properties().multiprocessors as usize;
        Ok(Self {
            partial: gpu.alloc(partials_bytes(shape, max_seqs, multiprocessors))?,
            counters: gpu.zeroed(counters_bytes(shape, max_seqs))?,
        })
    }
}

/// The kernels of a model's type and heads, where there are some with matrix instructions.
struct Kernels {
    prefill: &'static str,
    decode: &'static str,
    /// Query heads of one KV head that a block of `decode` takes.
    decode_heads: usize,
}

impl Kernels {
    fn of(shape: &CacheShape) -> Option<Self> {
        let (dtype, dim, group) = (shape.dtype, shape.head_dim, shape.query_heads / shape.kv_heads);
        let wide = sized!("attention_decode_wide", dtype, dim, [64 80 96 128]).filter(|_| group > 8);
        Some(Self {
            prefill: sized!("attention_prefill", dtype, dim, [64 80 96 128 256])
                .filter(|_| group <= tile_rows(dim))?,
            decode: match wide {
                Some(wide) => wide,
                None => sized!("attention_decode", dtype, dim, [64 80 96 128 256])?,
            },
            decode_heads: if wide.is_some() { 16 } else { 8 },
        })
    }

    /// Blocks of `decode` for one piece of one sequence.
    fn decode_blocks(&self, shape: &CacheShape) -> usize {
        shape.kv_heads * (shape.query_heads / shape.kv_heads).div_ceil(self.decode_heads)
    }
}

/// Rows (a token's query head each) of a tile of `attention_prefill`, and keys of its steps.
fn tile_rows(dim: usize) -> usize {
    if dim > 128 { 64 } else { 128 }
}
fn tile_keys(dim: usize) -> usize {
    if dim > 128 { 32 } else { 64 }
}

/// How queries are cut into tiles for models of this shape, if they can be served.
pub fn tile_tokens(shape: &CacheShape) -> Result<TileTokens, Error> {
    let &CacheShape { query_heads, kv_heads, head_dim, block_tokens, .. } = shape;
    if !block_tokens.is_power_of_two() {
        return Err(Error::Unsupported(format!("block_tokens={block_tokens}: on CUDA, a power of two")));
    }
    if head_dim == 0 || head_dim % 8 != 0 || head_dim > MAX_DIM {
        let wanted = format!("on CUDA, a multiple of 8 up to {MAX_DIM}");
        return Err(Error::Unsupported(format!("head_dim={head_dim}: {wanted}")));
    }
    if kv_heads == 0 || query_heads % kv_heads != 0 {
        return Err(Error::Unsupported(format!("{query_heads} query heads over {kv_heads} key heads")));
    }
    Ok(TileTokens((tile_rows(head_dim) / (query_heads / kv_heads)).max(1)))
}

/// How the sequences of a step are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// Pieces of a sequence that is neither short nor long.
    pub usual: usize,
    /// Pieces of any sequence at most.
    pub most: usize,
}

/// By the number of sequences alone, so that a recorded step serves all lengths. About three blocks for every two
/// multiprocessors were fastest on an H200 (`bench/results/gpu-plans.json`).
pub fn split(shape: &CacheShape, seqs: usize, multiprocessors: usize) -> Split {
    let Some(kernels) = Kernels::of(shape) else { return Split { usual: 1, most: 1 } };
    let alone = seqs.max(1) * kernels.decode_blocks(shape);
    // No sequence is longer than the cache.
    let longest = (shape.blocks * shape.block_tokens).div_ceil(SHORT_PIECE).max(1);
    let usual = (3 * multiprocessors / 2).div_ceil(alone).min(MAX_SPLITS);
    Split { usual: usual.min(longest), most: usual.max(MIN_SPLITS).min(longest) }
}

/// Bytes of the pieces of steps of up to `max_seqs` sequences.
fn partials_bytes(shape: &CacheShape, max_seqs: usize, multiprocessors: usize) -> usize {
    let pieces = |seqs| match split(shape, seqs, multiprocessors).most {
        1 => 0,
        most => seqs * most,
    };
    partial_bytes(shape, (1..=max_seqs).map(pieces).max().unwrap_or(0))
}

fn counters_bytes(shape: &CacheShape, max_seqs: usize) -> usize {
    Kernels::of(shape).map_or(0, |kernels| max_seqs * kernels.decode_blocks(shape) * size_of::<u32>())
}

/// For each piece and head: weighted values, largest exponent, total weight, all f32.
fn partial_bytes(shape: &CacheShape, pieces: usize) -> usize {
    pieces * shape.query_heads * (shape.head_dim + 2) * size_of::<f32>()
}

/// Causal attention of every token over its sequence's cached keys, its own included. `qkv` is as `rope_store` left
/// it, the batch was filled with the tiles of `tile_tokens`.
#[allow(clippy::too_many_arguments)]
pub fn attention(
    gpu: &Gpu,
    workspace: &Workspace,
    batch: &Batch,
    qkv: &Buffer,
    layer: usize,
    cache: &Cache,
    how: &Attention,
    out: &mut Buffer,
) -> Result<(), Error> {
    let split = split(&cache.shape, batch.grid_decode(), gpu.properties().multiprocessors as usize);
    attention_split(gpu, workspace, split, batch, qkv, layer, cache, how, out)
}

/// As `attention`, cut like this.
#[allow(clippy::too_many_arguments)]
pub fn attention_split(
    gpu: &Gpu,
    workspace: &Workspace,
    split: Split,
    batch: &Batch,
    qkv: &Buffer,
    layer: usize,
    cache: &Cache,
    how: &Attention,
    out: &mut Buffer,
) -> Result<(), Error> {
    out.set_rows(batch.grid_tokens());
    let call = Call { gpu, batch, qkv, layer, cache, how, out };
    match Kernels::of(&cache.shape) {
        None => call.generic(),
        Some(kernels) => {
            call.decode(&kernels, workspace, split)?;
            call.prefill(&kernels)
        }
    }
}

/// One call, from which each kernel takes its arguments.
struct Call<'a> {
    gpu: &'a Gpu,
    batch: &'a Batch,
    qkv: &'a Buffer,
    layer: usize,
    cache: &'a Cache,
    how: &'a Attention,
    out: &'a Buffer,
}

impl Call<'_> {
    /// What all kernels take first.
    fn tensors(&self) -> [Arg; 5] {
        let Self { batch, qkv, layer, cache, out, .. } = *self;
        [batch.ptr(), qkv.ptr(), cache.keys(layer), cache.values(layer), out.ptr()].map(Arg::Ptr)
    }

    fn heads(&self) -> [Arg; 2] {
        let shape = &self.cache.shape;
        [shape.query_heads, shape.kv_heads].map(|count| Arg::U32(count as u32))
    }

    /// What all kernels take last.
    fn numbers(&self) -> [Arg; 3] {
        let Attention { scale, softcap, .. } = *self.how;
        [Arg::F32(scale), Arg::F32(softcap.unwrap_or(0.0)), self.window()]
    }

    fn window(&self) -> Arg {
        Arg::U32(self.how.window.map_or(0, |window| window.min(u32::MAX as usize) as u32))
    }

    fn prefill(&self, kernels: &Kernels) -> Result<(), Error> {
        let &CacheShape { kv_heads, head_dim, block_tokens, .. } = &self.cache.shape;
        let tile = tile_tokens(&self.cache.shape)?.0;
        let rows = tile_rows(head_dim) + 2 * tile_keys(head_dim);
        let grid = Grid {
            blocks: [kv_heads as u32, self.batch.counts.tiles as u32, 1],
            threads: THREADS,
            shared: (rows * head_dim * self.qkv.dtype.size()) as u32,
        };
        let sizes = [block_tokens, tile].map(|size| Arg::U32(size as u32));
        let args = [&self.tensors()[..], &self.heads(), &sizes, &self.numbers()].concat();
        self.gpu.launch(kernels.prefill, grid, &args)
    }

    fn decode(&self, kernels: &Kernels, workspace: &Workspace, split: Split) -> Result<(), Error> {
        let block_tokens = self.cache.shape.block_tokens;
        let seqs = self.batch.grid_decode();
        let pieces = if split.most == 1 { 0 } else { seqs * split.most };
        let counters = counters_bytes(&self.cache.shape, seqs);
        assert!(
            partial_bytes(&self.cache.shape, pieces) <= workspace.partial.bytes()
                && counters <= workspace.counters.bytes(),
            "no room for {pieces} pieces of {seqs} sequences"
        );
        let pieces = [&workspace.partial, &workspace.counters].map(|memory| Arg::Ptr(memory.ptr()));
        let blocks = [seqs, kernels.decode_blocks(&self.cache.shape), split.most].map(|count| count as u32);
        let sizes = [block_tokens, split.usual, split.most].map(|size| Arg::U32(size as u32));
        let args = [&self.tensors()[..], &pieces, &self.heads(), &sizes, &self.numbers()].concat();
        self.gpu.launch(kernels.decode, Grid { blocks, threads: THREADS, shared: 0 }, &args)
    }

    fn generic(&self) -> Result<(), Error> {
        let shape = &self.cache.shape;
        let blocks = [self.batch.grid_tokens() as u32, shape.query_heads.div_ceil(WARPS) as u32, 1];
        let sizes = [shape.head_dim, shape.block_tokens].map(|size| Arg::U32(size as u32));
        let args = [&self.tensors()[..], &self.heads(), &sizes, &self.numbers()].concat();
        let grid = Grid { blocks, threads: THREADS, shared: 0 };
        self.gpu.launch(named!(self.qkv.dtype, "attention_generic"), grid, &args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: CacheShape = CacheShape {
        layers: 1,
        query_heads: 32,
        kv_heads: 8,
        head_dim: 128,
        block_tokens: 16,
        blocks: 65_536,
        dtype: Dtype::Bf16,
    };

    #[test]
    fn few_sequences_are_cut_into_many_pieces_and_many_into_few() {
        let of = |seqs| {
            let Split { usual, most } = split(&SHAPE, seqs, 132);
            (usual, most)
        };
        assert_eq!([of(1), of(4), of(8), of(256)], [(25, 25), (7, 8), (4, 8), (1, 8)]);
        let small = CacheShape { blocks: 20, ..SHAPE };
        assert_eq!(split(&small, 1, 132), Split { usual: 3, most: 3 }, "320 keys are at most three pieces");
        let exact = CacheShape { dtype: Dtype::F32, ..SHAPE };
        assert_eq!(split(&exact, 1, 132), Split { usual: 1, most: 1 });
    }

    #[test]
    fn every_step_finds_room_for_its_pieces() {
        let bytes = partials_bytes(&SHAPE, 100, 132);
        for seqs in 1..=100 {
            assert!(seqs * split(&SHAPE, seqs, 132).most * 32 * 130 * 4 <= bytes, "{seqs}");
        }
        assert_eq!(partials_bytes(&CacheShape { blocks: 8, ..SHAPE }, 100, 132), 0);
    }

    #[test]
    fn a_tile_holds_whole_tokens() {
        let tile = |query_heads, kv_heads, head_dim| {
            tile_tokens(&CacheShape { query_heads, kv_heads, head_dim, ..SHAPE }).map(|tile| tile.0)
        };
        assert_eq!(tile(32, 8, 128).ok(), Some(32));
        assert_eq!(tile(28, 4, 128).ok(), Some(18));
        assert_eq!(tile(8, 8, 256).ok(), Some(64));
        assert_eq!(tile(200, 1, 64).ok(), Some(1));
        for (query_heads, kv_heads, head_dim) in [(3, 2, 64), (4, 4, 264), (4, 4, 12)] {
            assert!(tile(query_heads, kv_heads, head_dim).is_err());
        }
        assert!(tile_tokens(&CacheShape { block_tokens: 24, ..SHAPE }).is_err());
    }
}
