//! Attention over paged keys and values: of whole prompts, and of one query per sequence.

use tokenmill_backend_model::device::{Attention as How, CacheShape, Device, Dtype, Heads};
use tokenmill_cuda::Cuda;
use tokenmill_cuda::buffer::{Buffer, Cache};

use crate::Operation;
use crate::inputs::{Failure, Numbers, Sequences, buffer, copies};

pub(crate) struct Attention {
    how: How,
    layers: usize,
    cache: Cache,
    input: <Cuda as Device>::Batch,
    qkv: Buffer,
    out: Buffer,
}

/// What is attended to.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) sequences: usize,
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    pub(crate) heads: Heads,
    pub(crate) block_tokens: usize,
}

impl Attention {
    pub(crate) fn new(device: &mut Cuda, shape: Shape) -> Result<Self, Failure> {
        let Shape { sequences, queries, keys, heads, block_tokens } = shape;
        let numbers = Numbers::new();
        let of = Sequences::new(sequences, queries, keys, block_tokens);
        let layers = copies(4 * of.blocks() * block_tokens * heads.kv * heads.dim);
        let mut cache = device.cache(CacheShape {
            layers,
            query_heads: heads.query,
            kv_heads: heads.kv,
            head_dim: heads.dim,
            block_tokens,
            blocks: of.blocks(),
            dtype: Dtype::Bf16,
        })?;
        numbers.fill(device.gpu(), cache.memory.ptr(), cache.memory.bytes())?;
        let tokens = sequences * queries;
        let mut input = device.batch(tokens, sequences, sequences, of.blocks())?;
        device.begin(&of.step(), &mut input, &mut cache)?;
        let how = How { heads, scale: (heads.dim as f32).sqrt().recip(), window: None, softcap: None };
        let qkv = buffer(device, tokens, heads.columns(), &numbers)?;
        let out = buffer(device, tokens, heads.query * heads.dim, &numbers)?;
        Ok(Self { how, layers, cache, input, qkv, out })
    }
}

impl Operation for Attention {
    fn run(&mut self, device: &mut Cuda, turn: usize) -> Result<(), Failure> {
        let layer = turn % self.layers;
        Ok(device.attention(&self.input, &self.qkv, layer, &self.cache, &self.how, &mut self.out)?)
    }
}
