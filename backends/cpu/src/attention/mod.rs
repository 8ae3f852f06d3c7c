//! Causal attention over paged keys and values with online softmax (FlashAttention-2, arXiv 2307.08691).
//!
//! Keys are visited in tiles of 64 at fixed absolute positions, and a masked key adds exactly nothing, so a query's
//! result depends neither on how its prompt was cut into steps nor on what shares the batch.

mod softmax;
mod tile;

use crate::batch::Batch;
use crate::cache::{Cache, Element, Store};
use crate::isa::Kernel;
use crate::memory::{Parts, Slab};
use crate::paths::Paths;
use crate::simd::{LANES, Simd};
use crate::threads::Pool;
use softmax::RowState;
use std::ops::Range;
use tile::{TILE, Tile};
use tokenmill_backend_model::device::Attention;

/// Query rows (a token's head each) of one chunk: they share every tile of keys while it is in cache.
const MOST_ROWS: usize = 48;

/// Some query rows of one sequence; row `i` is head `i % group` of token `i / group`.
struct Item {
    seq: usize,
    rows: Range<usize>,
}

/// Room for the chunks of one layer and for what a thread keeps while it works on one.
#[derive(Default)]
pub(crate) struct Scratch {
    items: Vec<Item>,
    threads: Vec<Slab<f32>>,
}

impl Scratch {
    pub(crate) fn reserve(&mut self, threads: usize, head_dim: usize) {
        let len = Room::len(head_dim);
        if self.threads.first().is_none_or(|t| t.len() < len) {
            self.threads = (0..threads).map(|_| Slab::zeroed(len)).collect();
        }
    }

    /// Room for the chunks of `tokens` tokens, of models with up to 48 query heads per KV head.
    pub(crate) fn reserve_items(&mut self, tokens: usize) {
        self.items.clear();
        self.items.reserve(tokens);
    }

    fn plan(&mut self, batch: &Batch, group: usize) {
        self.items.clear();
        for seq in 0..batch.seq_start.len().saturating_sub(1) {
            let rows = (batch.seq_start[seq + 1] - batch.seq_start[seq]) as usize * group;
            let firsts = (0..rows).step_by(MOST_ROWS);
            self.items.extend(firsts.map(|at| Item { seq, rows: at..(at + MOST_ROWS).min(rows) }));
        }
    }
}

/// What a thread needs for one chunk, cut from its slab.
struct Room<'a> {
    queries: &'a mut [f32],
    outputs: &'a mut [f32],
    scores: &'a mut [f32],
    keys: &'a mut [f32],
    values: &'a mut [f32],
}

impl Room<'_> {
    fn len(dim: usize) -> usize {
        MOST_ROWS * (dim + dim.next_multiple_of(LANES) + TILE) + 2 * TILE * dim + LANES
    }

    fn cut(slab: &mut [f32], dim: usize) -> Room<'_> {
        let (queries, rest) = slab.split_at_mut(MOST_ROWS * dim);
        let (outputs, rest) = rest.split_at_mut(MOST_ROWS * dim.next_multiple_of(LANES));
        let (scores, rest) = rest.split_at_mut(MOST_ROWS * TILE);
        let (keys, values) = rest.split_at_mut(TILE * dim);
        Room { queries, outputs, scores, keys, values }
    }
}

/// One layer for every token of the batch.
pub(crate) struct Job<'a> {
    pub batch: &'a Batch,
    /// Rows `[query | key | value]` as `rope_store` left them.
    pub qkv: &'a [f32],
    pub layer: usize,
    pub cache: &'a Cache,
    pub how: &'a Attention,
}

/// `out` is `[tokens, query heads * dim]`.
pub(crate) fn attention(
    paths: &Paths,
    pool: &mut Pool,
    scratch: &mut Scratch,
    job: &Job<'_>,
    out: &mut [f32],
) {
    let heads = job.how.heads;
    scratch.plan(job.batch, heads.query / heads.kv);
    let (items, out) = (&scratch.items, Parts::new(out));
    let rooms = Parts::new(&mut scratch.threads);
    pool.run(items.len() * heads.kv, |index, thread| {
        // The longest come last in a prompt and should start first.
        let item = &items[items.len() - 1 - index / heads.kv];
        let kv_head = index % heads.kv;
        // SAFETY: a thread runs one chunk at a time, in its own room.
        let room = Room::cut(&mut unsafe { rooms.part(thread..thread + 1) }[0], heads.dim);
        let chunk = Chunk { item, kv_head, job, out };
        match &job.cache.data {
            Store::F32(data) => paths.isa.run(OnCache { chunk, room, data: &data[..] }),
            Store::Bf16(data) => paths.isa.run(OnCache { chunk, room, data: &data[..] }),
        }
    });
}

/// One KV head for some query rows of one sequence.
struct Chunk<'a> {
    item: &'a Item,
    kv_head: usize,
    job: &'a Job<'a>,
    out: Parts<'a, f32>,
}

struct OnCache<'a, E> {
    chunk: Chunk<'a>,
    room: Room<'a>,
    data: &'a [E],
}

impl<E: Element> Kernel for OnCache<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let OnCache { chunk, room, data } = self;
        let Job { batch, layer, how, .. } = *chunk.job;
        let shape = &chunk.job.cache.shape;
        let dim = how.heads.dim;
        let mut states = [RowState::EMPTY; MOST_ROWS];
        let rows = chunk.item.rows.len();
        for (i, state) in states[..rows].iter_mut().enumerate() {
            chunk.query(i, &mut room.queries[i * dim..][..dim]);
            *state = chunk.sees(i);
        }
        room.outputs.fill(0.0);
        let first = states[..rows].iter().map(|r| r.first).min().unwrap_or(0) / TILE;
        let last = states[..rows].iter().map(|r| r.last).max().unwrap_or(0) / TILE;
        let blocks = batch.blocks_of(chunk.item.seq);
        for index in first..=last {
            let place = tile::Place { shape, layer, head: chunk.kv_head, blocks, index };
            if shape.block_tokens < LANES {
                let tile = tile::gather(&place, data, room.keys, room.values, states[..rows].iter());
                tile.visit(s, how, &mut states[..rows], room.queries, room.scores, room.outputs);
            } else {
                let tile: Tile<E> = tile::in_place(&place, data);
                tile.visit(s, how, &mut states[..rows], room.queries, room.scores, room.outputs);
            }
        }
        for (i, state) in states[..rows].iter().enumerate() {
            let wide = dim.next_multiple_of(LANES);
            chunk.finish(s, i, state, &room.outputs[i * wide..][..dim]);
        }
    }
}

impl Chunk<'_> {
    /// Token (of the whole batch) and query head of row `i` of the chunk.
    fn token_and_head(&self, i: usize) -> (usize, usize) {
        let group = self.job.how.heads.query / self.job.how.heads.kv;
        let row = self.item.rows.start + i;
        let token = self.job.batch.seq_start[self.item.seq] as usize + row / group;
        (token, self.kv_head * group + row % group)
    }

    fn query(&self, i: usize, to: &mut [f32]) {
        let (token, head) = self.token_and_head(i);
        let heads = self.job.how.heads;
        to.copy_from_slice(&self.job.qkv[token * heads.columns() + head * heads.dim..][..heads.dim]);
    }

    /// Nothing seen yet, and the positions row `i` may see.
    fn sees(&self, i: usize) -> RowState {
        let last = self.job.batch.places[self.token_and_head(i).0].position as usize;
        let first = self.job.how.window.map_or(0, |w| (last + 1).saturating_sub(w));
        RowState { first, last, ..RowState::EMPTY }
    }

    #[inline(always)]
    fn finish<S: Simd>(&self, s: S, i: usize, state: &RowState, sums: &[f32]) {
        let (token, head) = self.token_and_head(i);
        let heads = self.job.how.heads;
        let at = (token * heads.query + head) * heads.dim;
        // SAFETY: every row of every chunk is another head of another token.
        let out = unsafe { self.out.part(at..at + heads.dim) };
        let scale = s.splat(1.0 / state.total);
        let (full, rest) = out.as_chunks_mut::<LANES>();
        let (sums, sums_rest) = sums.as_chunks::<LANES>();
        for (out, sum) in full.iter_mut().zip(sums) {
            s.store(s.mul(s.load(sum), scale), out);
        }
        if !rest.is_empty() {
            s.store_part(s.mul(s.load_part(sums_rest, 0.0), scale), rest);
        }
    }
}
