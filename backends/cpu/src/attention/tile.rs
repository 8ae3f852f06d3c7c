//! One tile of 64 keys and values, and what the query rows of a chunk do with it.

use super::softmax::RowState;
use crate::cache::{Element, keys_at, values_at};
use crate::panel::accumulate;
use crate::simd::{LANES, Simd};
use std::ops::Range;
use tokenmill_backend_model::device::{Attention, CacheShape};

/// Keys of one tile; tiles begin at multiples of it.
pub(super) const TILE: usize = 64;
const VECTORS: usize = TILE / LANES;

/// Which tile of which head.
pub(super) struct Place<'a> {
    pub shape: &'a CacheShape,
    pub layer: usize,
    pub head: usize,
    /// Block ids of the sequence.
    pub blocks: &'a [u32],
    pub index: usize,
}

/// Where the keys of a tile lie: segments of equal length, some at the end perhaps missing.
pub(super) struct Tile<'a, E> {
    start: usize,
    dim: usize,
    /// Tokens between two dimensions of the keys.
    tokens: usize,
    /// Tokens of a segment, a multiple of 16.
    segment: usize,
    keys: [&'a [E]; VECTORS],
    values: [&'a [E]; VECTORS],
    /// Token of the segment's first key in `keys`.
    offset: usize,
}

/// A tile read where it lies in the cache; blocks of at least 16 tokens.
pub(super) fn in_place<'a, E: Element>(at: &Place<'_>, data: &'a [E]) -> Tile<'a, E> {
    let (size, dim) = (at.shape.block_tokens, at.shape.head_dim);
    let segment = size.min(TILE);
    let start = at.index * TILE;
    let offset = start % size;
    let mut tile = Tile { start, dim, tokens: size, segment, keys: [&[]; 4], values: [&[]; 4], offset };
    for i in 0..TILE / segment {
        if let Some(&block) = at.blocks.get((start + i * segment) / size) {
            let block = block as usize;
            tile.keys[i] = &data[keys_at(at.shape, at.layer, block, at.head)..][..size * dim];
            // Vectors of 16 may reach past the last token's dimensions.
            let values = values_at(at.shape, at.layer, block, at.head) + offset * dim;
            tile.values[i] = &data[values..][..segment * dim + LANES];
        }
    }
    tile
}

/// A tile copied together as f32 from blocks of fewer than 16 tokens: the values are the same, only slower to reach.
pub(super) fn gather<'a, 'r, E: Element>(
    at: &Place<'_>,
    data: &[E],
    keys: &'a mut [f32],
    values: &'a mut [f32],
    rows: impl Iterator<Item = &'r RowState>,
) -> Tile<'a, f32> {
    let (size, dim) = (at.shape.block_tokens, at.shape.head_dim);
    let start = at.index * TILE;
    let end = (start + TILE).min(1 + rows.map(|r| r.last).max().unwrap_or(0));
    for position in start..end {
        let block = at.blocks[position / size] as usize;
        let from_keys = keys_at(at.shape, at.layer, block, at.head);
        let from_values = values_at(at.shape, at.layer, block, at.head) + position % size * dim;
        let token = position - start;
        for d in 0..dim {
            keys[d * TILE + token] = data[from_keys + E::key(d, position % size, size)].to_f32();
            values[token * dim + d] = data[from_values + d].to_f32();
        }
    }
    let (keys, values): (&[f32], &[f32]) = (&keys[..TILE * dim], &values[..TILE * dim + LANES]);
    Tile {
        start,
        dim,
        tokens: TILE,
        segment: TILE,
        keys: [keys, &[], &[], &[]],
        values: [values, &[], &[], &[]],
        offset: 0,
    }
}

impl<E: Element> Tile<'_, E> {
    /// Adds this tile to the outputs of all rows.
    #[inline(always)]
    pub(super) fn visit<S: Simd>(
        &self,
        s: S,
        how: &Attention,
        states: &mut [RowState],
        queries: &[f32],
        scores: &mut [f32],
        outputs: &mut [f32],
    ) {
        let mut r = 0;
        while r < states.len() {
            let left = states.len() - r;
            let n = match left {
                12.. if S::ROWS >= 12 => 12,
                6.. if S::ROWS >= 6 => 6,
                3.. if S::ROWS >= 6 => 3,
                2.. => 2,
                _ => 1,
            };
            let states = &mut states[r..r + n];
            let queries = &queries[r * self.dim..];
            let outputs = &mut outputs[r * self.dim.next_multiple_of(LANES)..];
            let scores = &mut scores[..n * TILE];
            match n {
                12 => self.rows::<S, 12, 1>(s, how, states, queries, scores, outputs),
                6 => self.rows::<S, 6, 2>(s, how, states, queries, scores, outputs),
                3 => self.rows::<S, 3, 4>(s, how, states, queries, scores, outputs),
                2 => self.rows::<S, 2, 4>(s, how, states, queries, scores, outputs),
                _ => self.rows::<S, 1, 4>(s, how, states, queries, scores, outputs),
            }
            r += n;
        }
    }

    /// `R` rows, `P` vectors at a time.
    #[inline(always)]
    fn rows<S: Simd, const R: usize, const P: usize>(
        &self,
        s: S,
        how: &Attention,
        states: &mut [RowState],
        queries: &[f32],
        scores: &mut [f32],
        outputs: &mut [f32],
    ) {
        let first = states.iter().map(|r| r.first).min().unwrap_or(0).max(self.start);
        let end = states.iter().map(|r| r.last + 1).max().unwrap_or(0).min(self.start + TILE);
        if first >= end {
            return;
        }
        let (first, end) = (first - self.start, end - self.start);
        let vectors = first / LANES..end.div_ceil(LANES);
        self.score::<S, R, P>(s, vectors.clone(), queries, scores);
        let wide = self.dim.next_multiple_of(LANES);
        let (scores, _) = scores.as_chunks_mut::<TILE>();
        for ((state, scores), out) in states.iter_mut().zip(&mut *scores).zip(outputs.chunks_exact_mut(wide))
        {
            let keep = state.visit(s, how, self.start, vectors.clone(), scores);
            if keep != 1.0 {
                let keep = s.splat(keep);
                for out in out.as_chunks_mut::<LANES>().0 {
                    s.store(s.mul(s.load(out), keep), out);
                }
            }
        }
        self.weigh::<S, R, P>(s, vectors.start * LANES..end, scores.as_flattened(), outputs);
    }

    /// `scores[r][v] = queries[r] · keys[v]` for the vectors given.
    #[inline(always)]
    fn score<S: Simd, const R: usize, const P: usize>(
        &self,
        s: S,
        vectors: Range<usize>,
        queries: &[f32],
        scores: &mut [f32],
    ) {
        let mut v = vectors.start;
        while v + P <= vectors.end {
            self.score_at::<S, R, P>(s, v, queries, scores);
            v += P;
        }
        while v < vectors.end {
            self.score_at::<S, R, 1>(s, v, queries, scores);
            v += 1;
        }
    }

    #[inline(always)]
    fn score_at<S: Simd, const R: usize, const P: usize>(
        &self,
        s: S,
        vector: usize,
        queries: &[f32],
        scores: &mut [f32],
    ) {
        let panels = std::array::from_fn::<_, P, _>(|p| {
            let token = (vector + p) * LANES;
            let keys = self.keys[token / self.segment];
            assert!(keys.len() == self.tokens * self.dim, "a key outside of the sequence's blocks");
            E::keys(keys.as_ptr(), self.offset + token % self.segment, self.tokens)
        });
        assert!(queries.len() >= R * self.dim);
        let mut acc = [[s.splat(0.0); P]; R];
        // SAFETY: a panel reads 16 of `tokens` tokens from a multiple of 16 on, in each of `dim` (even) dimensions.
        unsafe { accumulate(s, &mut acc, queries.as_ptr(), self.dim, panels, self.dim) };
        let (scores, _) = scores.as_chunks_mut::<LANES>();
        for (r, acc) in acc.into_iter().enumerate() {
            for (p, acc) in acc.into_iter().enumerate() {
                s.store(acc, &mut scores[r * VECTORS + vector + p]);
            }
        }
    }

    /// `outputs[r] += weights[r] · values` for the tokens given (from a multiple of 16 on).
    #[inline(always)]
    fn weigh<S: Simd, const R: usize, const P: usize>(
        &self,
        s: S,
        tokens: Range<usize>,
        weights: &[f32],
        outputs: &mut [f32],
    ) {
        let all = self.dim.div_ceil(LANES);
        let mut v = 0;
        while v + P <= all {
            self.weigh_at::<S, R, P>(s, v, tokens.clone(), weights, outputs);
            v += P;
        }
        while v < all {
            self.weigh_at::<S, R, 1>(s, v, tokens.clone(), weights, outputs);
            v += 1;
        }
    }

    #[inline(always)]
    fn weigh_at<S: Simd, const R: usize, const P: usize>(
        &self,
        s: S,
        vector: usize,
        tokens: Range<usize>,
        weights: &[f32],
        outputs: &mut [f32],
    ) {
        let wide = self.dim.div_ceil(LANES);
        let (outputs, _) = outputs.as_chunks_mut::<LANES>();
        // Loops, for a closure would be compiled without the caller's instructions.
        let mut acc = [[s.splat(0.0); P]; R];
        for (r, acc) in acc.iter_mut().enumerate() {
            for (p, acc) in acc.iter_mut().enumerate() {
                *acc = s.load(&outputs[r * wide + vector + p]);
            }
        }
        assert!(weights.len() >= R * TILE);
        let mut token = tokens.start;
        while token < tokens.end {
            let (segment, skip) = (token / self.segment, token % self.segment);
            let n = (self.segment - skip).min(tokens.end - token);
            let values = self.values[segment];
            assert!(
                values.len() >= (skip + n) * self.dim + LANES,
                "a value outside of the sequence's blocks"
            );
            let panels = std::array::from_fn::<_, P, _>(|p| {
                E::values(values[skip * self.dim + (vector + p) * LANES..].as_ptr(), self.dim)
            });
            // SAFETY: `values` holds `n` tokens and 16 elements more; weights hold 64 a row.
            unsafe { accumulate(s, &mut acc, weights[token..].as_ptr(), TILE, panels, n) };
            token += n;
        }
        for (r, acc) in acc.into_iter().enumerate() {
            for (p, acc) in acc.into_iter().enumerate() {
                s.store(acc, &mut outputs[r * wide + vector + p]);
            }
        }
    }
}
