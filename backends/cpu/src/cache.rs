//! Paged keys and values.
//!
//! Per layer and block: for every KV head its keys, then its values. Values are `[token][dim]`. Keys are turned, so
//! that 16 scores are one vector: f32 `[dim][token]`, bf16 `[dim / 2][token][2]`.

use crate::memory::{Plain, Slab};
use crate::panel::{Pairs, Panel, Rows};
use crate::simd::LANES;
use half::bf16;
use tokenmill_backend_model::device::{CacheShape, Dtype};
use tokenmill_backend_model::error::Error;

/// Element of a cache, and the layout of its keys.
pub(crate) trait Element: Plain {
    type Keys: Panel;
    type Values: Panel;
    fn from_f32(x: f32) -> Self;
    fn to_f32(self) -> f32;
    /// Where element (`dim`, `token`) of the keys of `tokens` tokens lies.
    fn key(dim: usize, token: usize, tokens: usize) -> usize;
    /// 16 keys from `token` on, as the columns of a panel.
    fn keys(start: *const Self, token: usize, tokens: usize) -> Self::Keys;
    /// 16 dimensions of values from `start` on, `dim` elements a token.
    fn values(start: *const Self, dim: usize) -> Self::Values;
}

impl Element for f32 {
    type Keys = Rows<f32>;
    type Values = Rows<f32>;
    #[inline(always)]
    fn from_f32(x: f32) -> f32 {
        x
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn key(dim: usize, token: usize, tokens: usize) -> usize {
        dim * tokens + token
    }
    #[inline(always)]
    fn keys(start: *const f32, token: usize, tokens: usize) -> Rows<f32> {
        Rows { start: start.wrapping_add(token), stride: tokens }
    }
    #[inline(always)]
    fn values(start: *const f32, dim: usize) -> Rows<f32> {
        Rows { start, stride: dim }
    }
}

impl Element for u16 {
    type Keys = Pairs;
    type Values = Rows<u16>;
    #[inline(always)]
    fn from_f32(x: f32) -> u16 {
        bf16::from_f32(x).to_bits()
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        bf16::from_bits(self).to_f32()
    }
    #[inline(always)]
    fn key(dim: usize, token: usize, tokens: usize) -> usize {
        dim / 2 * 2 * tokens + 2 * token + dim % 2
    }
    #[inline(always)]
    fn keys(start: *const u16, token: usize, tokens: usize) -> Pairs {
        Pairs { start: start.wrapping_add(2 * token), stride: 2 * tokens }
    }
    #[inline(always)]
    fn values(start: *const u16, dim: usize) -> Rows<u16> {
        Rows { start, stride: dim }
    }
}

pub struct Cache {
    pub shape: CacheShape,
    pub data: Store,
}

pub enum Store {
    F32(Slab<f32>),
    Bf16(Slab<u16>),
}

impl Cache {
    pub fn new(shape: CacheShape) -> Result<Cache, Error> {
        if !shape.head_dim.is_multiple_of(2) {
            return Err(Error::Unsupported(format!("head_dim {}: odd", shape.head_dim)));
        }
        // Vectors of 16 may begin at the last 8 dimensions of the last token.
        let len = shape.layers * shape.blocks * block_len(&shape) + LANES;
        let none = || Error::NoMemory(format!("no memory for {} KV blocks", shape.blocks));
        let data = match shape.dtype {
            Dtype::F32 => Store::F32(Slab::try_zeroed(len).ok_or_else(none)?),
            Dtype::Bf16 => Store::Bf16(Slab::try_zeroed(len).ok_or_else(none)?),
            Dtype::F16 => return Err(Error::Unsupported("kv_dtype f16: the CPU keeps bf16 or f32".into())),
        };
        Ok(Cache { shape, data })
    }

    /// Copies whole blocks, in order, on every layer.
    pub fn copy_blocks(&mut self, copies: &[(u32, u32)]) {
        let len = block_len(&self.shape);
        for &(from, to) in copies {
            for layer in 0..self.shape.layers {
                let first = layer * self.shape.blocks;
                let from = (first + from as usize) * len;
                let to = (first + to as usize) * len;
                match &mut self.data {
                    Store::F32(data) => data.copy_within(from..from + len, to),
                    Store::Bf16(data) => data.copy_within(from..from + len, to),
                }
            }
        }
    }
}

/// Elements of one block of one layer.
fn block_len(shape: &CacheShape) -> usize {
    2 * shape.kv_heads * head_len(shape)
}

/// Elements of the keys, or of the values, of one head in one block.
fn head_len(shape: &CacheShape) -> usize {
    shape.block_tokens * shape.head_dim
}

/// First element of the keys of a head in a block.
pub(crate) fn keys_at(shape: &CacheShape, layer: usize, block: usize, head: usize) -> usize {
    (layer * shape.blocks + block) * block_len(shape) + 2 * head * head_len(shape)
}

/// First element of the values of a head in a block.
pub(crate) fn values_at(shape: &CacheShape, layer: usize, block: usize, head: usize) -> usize {
    keys_at(shape, layer, block, head) + head_len(shape)
}
