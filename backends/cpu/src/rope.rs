//! Head norms, rotary positions and the store into the cache, in one pass over `[query | key | value]` rows.

use crate::batch::Batch;
use crate::cache::{Element, keys_at, values_at};
use crate::isa::Kernel;
use crate::memory::Parts;
use crate::rows::rms_norm_in_place;
use crate::simd::{LANES, Simd};
use std::ops::Range;
use tokenmill_backend_model::device::{CacheShape, Heads};

/// Cosines and sines `[positions, half]`.
pub struct Rope {
    pub half: usize,
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
}

/// Weights of the norm of query and key heads, and its epsilon.
#[derive(Clone, Copy)]
pub(crate) struct HeadNorm<'a> {
    pub query: &'a [f32],
    pub key: &'a [f32],
    pub eps: f32,
}

/// A range of tokens of one layer.
pub(crate) struct RopeStore<'a, E> {
    pub tokens: Range<usize>,
    pub batch: &'a Batch,
    pub qkv: Parts<'a, f32>,
    pub heads: Heads,
    pub norm: Option<HeadNorm<'a>>,
    pub rope: &'a Rope,
    pub layer: usize,
    pub shape: &'a CacheShape,
    pub cache: Parts<'a, E>,
}

impl<E: Element> Kernel for RopeStore<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (heads, columns) = (self.heads, self.heads.columns());
        for t in self.tokens.clone() {
            // SAFETY: chunks hold disjoint tokens.
            let row = unsafe { self.qkv.part(t * columns..(t + 1) * columns) };
            let (rotated, values) = row.split_at_mut((heads.query + heads.kv) * heads.dim);
            let position = self.batch.places[t].position as usize;
            for (h, head) in rotated.chunks_exact_mut(heads.dim).enumerate() {
                if let Some(norm) = &self.norm {
                    let weight = if h < heads.query { norm.query } else { norm.key };
                    rms_norm_in_place(s, head, weight, norm.eps);
                }
                rotate(s, head, self.rope, position);
            }
            self.store(t, &rotated[heads.query * heads.dim..], values);
        }
    }
}

impl<E: Element> RopeStore<'_, E> {
    #[inline(always)]
    fn store(&self, token: usize, keys: &[f32], values: &[f32]) {
        let place = self.batch.places[token];
        let (size, dim) = (self.shape.block_tokens, self.heads.dim);
        let (position, blocks) = (place.position as usize, self.batch.blocks_of(place.seq as usize));
        let (block, slot) = (blocks[position / size] as usize, position % size);
        for (h, (key, value)) in keys.chunks_exact(dim).zip(values.chunks_exact(dim)).enumerate() {
            let at = keys_at(self.shape, self.layer, block, h);
            for (d, &x) in key.iter().enumerate() {
                let at = at + E::key(d, slot, size);
                // SAFETY: every token of a step has a slot of its own.
                let to = unsafe { self.cache.part(at..at + 1) };
                to[0] = E::from_f32(x);
            }
            let at = values_at(self.shape, self.layer, block, h) + slot * dim;
            // SAFETY: as above.
            let to = unsafe { self.cache.part(at..at + dim) };
            to.iter_mut().zip(value).for_each(|(to, &x)| *to = E::from_f32(x));
        }
    }
}

/// Turns the pairs `(i, i + half)` of a head by the angles of `position` (arXiv 2104.09864, half-split layout).
#[inline(always)]
fn rotate<S: Simd>(s: S, head: &mut [f32], rope: &Rope, position: usize) {
    let half = rope.half;
    let cos = &rope.cos[position * half..][..half];
    let sin = &rope.sin[position * half..][..half];
    let (a, b) = head[..2 * half].split_at_mut(half);
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks_mut::<LANES>(), b.as_chunks_mut::<LANES>());
    let ((cos, cos_rest), (sin, sin_rest)) = (cos.as_chunks::<LANES>(), sin.as_chunks::<LANES>());
    for (((a, b), c), sn) in a.iter_mut().zip(b).zip(cos).zip(sin) {
        let (x, y, c, sn) = (s.load(a), s.load(b), s.load(c), s.load(sn));
        s.store(s.sub(s.mul(x, c), s.mul(y, sn)), a);
        s.store(s.add(s.mul(y, c), s.mul(x, sn)), b);
    }
    for (((a, b), c), sn) in a_rest.iter_mut().zip(b_rest).zip(cos_rest).zip(sin_rest) {
        (*a, *b) = (*a * c - *b * sn, *b * c + *a * sn);
    }
}
