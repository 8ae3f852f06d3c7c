//! Attention against softmax in f64. Every slot of the cache that no query sees is NaN.

use tokenmill_backend_model::device::{Attention, CacheShape, Dtype, Heads, Step};
use tokenmill_cuda::Gpu;
use tokenmill_cuda::batch::{Batch, Room};
use tokenmill_cuda::buffer::{Buffer, Cache};
use tokenmill_cuda::ops::attention::{Split, Workspace, attention, attention_split, split, tile_tokens};

use crate::support::{Random, assert_close, buffer, empty, gpu, rounded, uploaded, values};

const SIXTEEN_BITS: [Dtype; 2] = [Dtype::Bf16, Dtype::F16];

/// Queries of this step and keys in all.
type Seq = (usize, usize);

#[derive(Clone, Debug)]
struct Case {
    dtype: Dtype,
    heads: Heads,
    block_tokens: usize,
    window: Option<usize>,
    softcap: Option<f32>,
    seqs: Vec<Seq>,
}

impl Case {
    fn new(dtype: Dtype, query: usize, kv: usize, dim: usize, seqs: &[Seq]) -> Self {
        let heads = Heads { query, kv, dim };
        Self { dtype, heads, block_tokens: 16, window: None, softcap: None, seqs: seqs.to_vec() }
    }

    fn shape(&self) -> CacheShape {
        let Heads { query, kv, dim } = self.heads;
        let blocks = self.seqs.iter().map(|(_, keys)| keys.div_ceil(self.block_tokens)).sum::<usize>() + 2;
        CacheShape {
            layers: 2,
            query_heads: query,
            kv_heads: kv,
            head_dim: dim,
            block_tokens: self.block_tokens,
            blocks,
            dtype: self.dtype,
        }
    }

    fn how(&self) -> Attention {
        // Large enough that some keys weigh much more than others.
        let scale = 5.0 / (self.heads.dim as f32).sqrt();
        Attention { heads: self.heads, scale, window: self.window, softcap: self.softcap }
    }

    /// Keys that the query at `position` sees.
    fn seen(&self, position: usize) -> std::ops::Range<usize> {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))..position + 1
    }
}

/// A case where the device reads it, and what it should answer.
struct Prepared {
    case: Case,
    batch: Batch,
    qkv: Buffer,
    cache: Cache,
    want: Vec<f64>,
}

/// Rows of keys and values of one sequence, `[position][kv head][dim]`.
struct Context {
    keys: Vec<f32>,
    values: Vec<f32>,
}

fn prepare(gpu: &Gpu, case: &Case, room_for_more: usize) -> Prepared {
    let mut random = Random(21);
    let (shape, Heads { query, kv, dim }) = (case.shape(), case.heads);
    let tokens: usize = case.seqs.iter().map(|(queries, _)| queries).sum();
    let qkv = rounded(case.dtype, &random.numbers(tokens * case.heads.columns()));
    let contexts: Vec<Context> = case
        .seqs
        .iter()
        .map(|(_, keys)| Context {
            keys: rounded(case.dtype, &random.numbers(keys * kv * dim)),
            values: rounded(case.dtype, &random.numbers(keys * kv * dim)),
        })
        .collect();

    // Blocks in no order.
    let mut free: Vec<u32> = (0..shape.blocks as u32).collect();
    let (mut seq_start, mut block_start, mut blocks) = (vec![0], vec![0], Vec::new());
    for (queries, keys) in &case.seqs {
        seq_start.push(seq_start.last().unwrap() + *queries as u32);
        for _ in 0..keys.div_ceil(case.block_tokens) {
            blocks.push(free.swap_remove(random.below(free.len())));
        }
        block_start.push(blocks.len() as u32);
    }
    let memory = stored(case, &contexts, &blocks, &block_start);
    let seq_pos: Vec<u32> = case.seqs.iter().map(|(queries, keys)| (keys - queries) as u32).collect();
    let rows: Vec<u32> = seq_start[1..].iter().map(|end| end - 1).collect();
    let step = Step {
        tokens: &vec![0; tokens],
        seq_start: &seq_start,
        seq_pos: &seq_pos,
        block_start: &block_start,
        blocks: &blocks,
        rows: &rows,
        copies: &[],
    };
    let room = Room {
        tokens: tokens + room_for_more,
        seqs: seq_pos.len() + room_for_more,
        rows: rows.len() + room_for_more,
        blocks: blocks.len(),
    };
    let mut batch = Batch::new(gpu, room).unwrap();
    batch.fill(gpu, &step, case.block_tokens, tile_tokens(&shape).unwrap()).unwrap();
    let mut want = Vec::with_capacity(tokens * query * dim);
    for ((queries, keys), (context, start)) in case.seqs.iter().zip(contexts.iter().zip(&seq_start)) {
        for i in 0..*queries {
            let row = &qkv[(*start as usize + i) * case.heads.columns()..];
            (0..query).for_each(|head| want.extend(attended(case, row, context, keys - queries + i, head)));
        }
    }
    Prepared {
        case: case.clone(),
        batch,
        qkv: buffer(gpu, case.dtype, case.heads.columns(), &qkv),
        cache: Cache { memory: uploaded(gpu, case.dtype, &memory), shape },
        want,
    }
}

/// The cache's elements: what queries see of the contexts in layer 1, all else NaN.
fn stored(case: &Case, contexts: &[Context], blocks: &[u32], block_start: &[u32]) -> Vec<f32> {
    let (Heads { kv, dim, .. }, tokens) = (case.heads, case.block_tokens);
    let plane = case.shape().blocks * kv * tokens * dim;
    let mut memory = vec![f32::NAN; 4 * plane];
    for (seq, context) in contexts.iter().enumerate() {
        let (queries, keys) = case.seqs[seq];
        for position in case.seen(keys - queries).start..keys {
            let block = blocks[block_start[seq] as usize + position / tokens] as usize;
            for head in 0..kv {
                let slot = ((block * kv + head) * tokens + position % tokens) * dim;
                let from = (position * kv + head) * dim;
                memory[2 * plane + slot..][..dim].copy_from_slice(&context.keys[from..][..dim]);
                memory[3 * plane + slot..][..dim].copy_from_slice(&context.values[from..][..dim]);
            }
        }
    }
    memory
}

/// What one head of the query at `position` should get.
fn attended(case: &Case, row: &[f32], context: &Context, position: usize, head: usize) -> Vec<f64> {
    let Heads { query, kv, dim } = case.heads;
    let query = (&row[head * dim..][..dim], head / (query / kv));
    let of = |rows: &[f32], key: usize| -> Vec<f64> {
        rows[(key * kv + query.1) * dim..][..dim].iter().map(|v| f64::from(*v)).collect()
    };
    let score = |key: usize| {
        let dot: f64 = of(&context.keys, key).iter().zip(query.0).map(|(k, q)| k * f64::from(*q)).sum();
        let score = dot * f64::from(case.how().scale);
        case.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
    };
    let scores: Vec<f64> = case.seen(position).map(score).collect();
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
    let mut sum = vec![0.0; dim];
    for (key, score) in case.seen(position).zip(scores) {
        let weight = (score - largest).exp() / total;
        sum.iter_mut().zip(of(&context.values, key)).for_each(|(sum, v)| *sum += weight * v);
    }
    sum
}

impl Prepared {
    /// The kernels' answer: cut like this, or as the operation chooses.
    fn run(&self, gpu: &Gpu, split: Option<Split>) -> Vec<f32> {
        let Self { case, batch, qkv, cache, .. } = self;
        let workspace = Workspace::new(gpu, &cache.shape, batch.room.seqs).unwrap();
        let mut out = empty(gpu, case.dtype, batch.room.tokens, case.heads.query * case.heads.dim);
        match split {
            Some(split) => {
                attention_split(gpu, &workspace, split, batch, qkv, 1, cache, &case.how(), &mut out)
            }
            None => attention(gpu, &workspace, batch, qkv, 1, cache, &case.how(), &mut out),
        }
        .unwrap();
        assert_eq!(out.rows(), batch.grid_tokens());
        values(gpu, &out)
    }

    fn assert_right(&self, got: &[f32]) {
        let tolerance = match self.case.dtype {
            Dtype::Bf16 => 4e-3,
            Dtype::F16 => 1e-3,
            Dtype::F32 => 1e-5,
        };
        // Probabilities and results are rounded to the type; values are at most 1.
        assert_close(&format!("{:?}", self.case), got, &self.want, 0.5, tolerance);
    }
}

fn check(gpu: &Gpu, case: &Case) {
    let prepared = prepare(gpu, case, 0);
    prepared.assert_right(&prepared.run(gpu, None));
}

const DIMS: [usize; 5] = [64, 80, 96, 128, 256];

#[test]
fn prompts_see_themselves() {
    let gpu = gpu();
    for dim in DIMS {
        for dtype in SIXTEEN_BITS {
            for (query, kv) in [(2, 2), (8, 2), (8, 1)] {
                check(&gpu, &Case::new(dtype, query, kv, dim, &[(17, 17), (2, 2), (65, 65), (33, 33)]));
            }
        }
    }
}

#[test]
fn chunks_of_a_prompt_see_what_came_before() {
    let gpu = gpu();
    let seqs = [(5, 70), (40, 41), (2, 200), (64, 128), (2, 64)];
    for (i, dim) in DIMS.into_iter().enumerate() {
        for (dtype, block_tokens) in [(Dtype::Bf16, 64 >> i), (Dtype::F16, 4 << i)] {
            let (query, kv) = [(4, 1), (2, 2), (7, 1), (3, 1), (8, 2)][i];
            check(&gpu, &Case { block_tokens, ..Case::new(dtype, query, kv, dim, &seqs) });
        }
    }
}

#[test]
fn single_queries_of_every_group() {
    let gpu = gpu();
    let seqs = [(1, 1), (1, 17), (1, 64), (1, 65), (1, 200)];
    for (i, dim) in DIMS.into_iter().enumerate() {
        for dtype in SIXTEEN_BITS {
            for (j, (query, kv)) in [(2, 2), (8, 2), (8, 1), (16, 1), (20, 1)].into_iter().enumerate() {
                let block_tokens = [16, 32, 64, 4, 1][(i + j) % 5];
                check(&gpu, &Case { block_tokens, ..Case::new(dtype, query, kv, dim, &seqs) });
            }
        }
    }
}

#[test]
fn windows_end_where_they_should() {
    let gpu = gpu();
    let seqs = [(1, 90), (70, 90), (1, 5), (6, 6), (1, 600)];
    for (i, dim) in DIMS.into_iter().enumerate() {
        for window in [1, 4, 33] {
            let case = Case::new(SIXTEEN_BITS[i % 2], 4, 2, dim, &seqs);
            check(&gpu, &Case { window: Some(window), block_tokens: [16, 32, 8][window % 3], ..case });
        }
    }
    // Longer than a piece of split keys.
    check(&gpu, &Case { window: Some(300), ..Case::new(Dtype::Bf16, 4, 1, 64, &[(1, 620), (3, 400)]) });
}

#[test]
fn scores_are_capped() {
    let gpu = gpu();
    let seqs = [(1, 90), (20, 33), (1, 270)];
    for (i, dim) in DIMS.into_iter().enumerate() {
        for dtype in SIXTEEN_BITS {
            let window = (i % 2 == 0).then_some(25);
            check(&gpu, &Case { softcap: Some(3.0), window, ..Case::new(dtype, 4, 2, dim, &seqs) });
        }
    }
}

#[test]
fn steps_mix_single_queries_and_chunks() {
    let gpu = gpu();
    let seqs = [(1, 33), (18, 18), (1, 1), (130, 140), (1, 300), (2, 9)];
    check(&gpu, &Case::new(Dtype::Bf16, 4, 2, 64, &seqs));
    check(&gpu, &Case { block_tokens: 4, ..Case::new(Dtype::F16, 3, 3, 128, &seqs) });
}

#[test]
fn splits_change_nothing_but_rounding() {
    let gpu = gpu();
    let seqs = [(1, 1), (1, 127), (1, 129), (1, 511), (1, 1700)];
    for (dtype, query, kv, dim) in
        [(Dtype::Bf16, 8, 2, 64), (Dtype::F16, 12, 1, 80), (Dtype::Bf16, 2, 2, 256)]
    {
        let prepared = prepare(&gpu, &Case::new(dtype, query, kv, dim, &seqs), 0);
        let multiprocessors = gpu.properties().multiprocessors as usize;
        let chosen = split(&prepared.cache.shape, seqs.len(), multiprocessors);
        assert!(chosen.usual >= 5, "sequences are cut");
        let cut = |usual, most| Split { usual, most };
        for split in [cut(1, 1), cut(2, 2), cut(3, 4), cut(1, chosen.most), chosen] {
            let got = prepared.run(&gpu, Some(split));
            prepared.assert_right(&got);
            assert_eq!(got, prepared.run(&gpu, Some(split)), "the same bits every time");
        }
    }
}

#[test]
fn padded_steps_write_no_row_more() {
    let gpu = gpu();
    for dtype in [Dtype::Bf16, Dtype::F32] {
        let mut prepared = prepare(&gpu, &Case::new(dtype, 4, 2, 64, &[(1, 40), (1, 300), (1, 7)]), 3);
        prepared.batch.pad();
        assert_eq!(prepared.batch.grid_decode(), 4);
        let got = prepared.run(&gpu, None);
        let (real, padding) = got.split_at(3 * 4 * 64);
        prepared.assert_right(real);
        assert!(padding.iter().all(|v| v.is_nan()));
    }
}

#[test]
fn any_type_and_head_dimension_is_served() {
    let gpu = gpu();
    let seqs = [(1, 33), (18, 18), (1, 1), (3, 70)];
    for (i, dim) in [8, 16, 32, 64, 80, 256].into_iter().enumerate() {
        let (query, kv) = [(2, 2), (5, 1), (8, 2)][i % 3];
        let case = Case { block_tokens: 1 << i, ..Case::new(Dtype::F32, query, kv, dim, &seqs) };
        check(&gpu, &case);
        check(&gpu, &Case { window: Some(5), softcap: Some(3.0), ..case });
    }
    for dtype in SIXTEEN_BITS {
        check(&gpu, &Case::new(dtype, 4, 2, 16, &seqs));
        check(&gpu, &Case { window: Some(20), ..Case::new(dtype, 3, 1, 72, &seqs) });
    }
}
