//! Head norms, rotary positions and the store into the cache.

use tokenmill_backend_model::device::{Heads, QkNorm};
use tokenmill_backend_model::error::Error;

use crate::batch::Batch;
use crate::buffer::{Buffer, Cache, Rope, Vector};
use crate::gpu::{Arg, Gpu, Grid};

/// Heads of a block: one a warp.
const BLOCK: usize = 4;

/// On rows `[query | key | value]`: norms heads if asked, rotates queries (in place) and keys, stores keys and values
/// of `layer` in the batch's slots. Keys and values of `qkv` are left as they were.
#[allow(clippy::too_many_arguments)]
pub fn rope_store(
    gpu: &Gpu,
    batch: &Batch,
    qkv: &mut Buffer,
    heads: Heads,
    norm: Option<QkNorm<'_, Vector>>,
    rope: &Rope,
    layer: usize,
    cache: &Cache,
) -> Result<(), Error> {
    let all = heads.query + 2 * heads.kv;
    let blocks = [batch.grid_tokens() as u32, all.div_ceil(BLOCK) as u32, 1];
    let grid = Grid { blocks, threads: 32 * BLOCK as u32, shared: 0 };
    let (query_norm, key_norm, eps) =
        norm.map_or((0, 0, 0.0), |norm| (norm.query.memory.ptr(), norm.key.memory.ptr(), norm.eps));
    let args = [
        Arg::Ptr(batch.ptr()),
        Arg::Ptr(qkv.ptr()),
        Arg::Ptr(rope.cos.ptr()),
        Arg::Ptr(rope.sin.ptr()),
        Arg::Ptr(query_norm),
        Arg::Ptr(key_norm),
        Arg::Ptr(cache.keys(layer)),
        Arg::Ptr(cache.values(layer)),
        Arg::U32(heads.query as u32),
        Arg::U32(heads.kv as u32),
        Arg::U32(heads.dim as u32),
        Arg::U32(rope.half as u32),
        Arg::U32(cache.shape.block_tokens as u32),
        Arg::F32(eps),
    ];
    gpu.launch(named!(qkv.dtype, "rope_store"), grid, &args)
}
