use tokenmill_backend_model::device::{CacheShape, Dtype, Heads, QkNorm, Step};
use tokenmill_cuda::batch::TileTokens;
use tokenmill_cuda::buffer::Rope;
use tokenmill_cuda::ops::rope::rope_store;

use crate::support::{
    DTYPES, Random, assert_close, batch, buffer, cache, downloaded, gpu, rounded, values, vector,
};

const POSITIONS: usize = 40;
const EPS: f32 = 1e-6;

/// Two sequences: three tokens from position 5 on, and one at position 17.
const POSITION_OF: [usize; 4] = [5, 6, 7, 17];

struct Case {
    dtype: Dtype,
    heads: Heads,
    half: usize,
    block_tokens: usize,
    norm: bool,
}

/// Cosines and sines by position, and weights of the norms.
struct Tables {
    cos: Vec<f32>,
    sin: Vec<f32>,
    query: Vec<f32>,
    key: Vec<f32>,
}

/// One head, normed if there is a weight, and turned.
fn turned(head: &[f32], norm: Option<&[f32]>, tables: &Tables, half: usize, position: usize) -> Vec<f64> {
    let mut head: Vec<f64> = head.iter().map(|v| f64::from(*v)).collect();
    if let Some(weight) = norm {
        let mean = head.iter().map(|v| v * v).sum::<f64>() / head.len() as f64;
        let scale = 1.0 / (mean + f64::from(EPS)).sqrt();
        head.iter_mut().zip(weight).for_each(|(v, w)| *v *= scale * f64::from(*w));
    }
    for i in 0..half {
        let angle = position * half + i;
        let (c, s) = (f64::from(tables.cos[angle]), f64::from(tables.sin[angle]));
        let (a, b) = (head[i], head[i + half]);
        head[i] = a * c - b * s;
        head[i + half] = b * c + a * s;
    }
    head
}

/// What the operation made of numbers, beside the numbers.
struct Ran {
    qkv: Vec<f32>,
    tables: Tables,
    /// Block ids of both sequences; they fall, so that they are not positions.
    blocks: Vec<u32>,
    /// Of the first sequence.
    first_blocks: usize,
    got: Vec<f32>,
    /// All planes of a cache of two layers: the operation was to write to the second.
    stored: Vec<f32>,
    plane: usize,
}

fn run(case: &Case) -> Ran {
    let gpu = gpu();
    let Case { dtype, heads, half, block_tokens, norm } = *case;
    let (dim, columns) = (heads.dim, heads.columns());
    let mut random = Random(8);
    let qkv = rounded(dtype, &random.numbers(4 * columns));
    let angles: Vec<f32> = random.numbers(POSITIONS * half).iter().map(|v| v * 3.0).collect();
    let tables = Tables {
        cos: angles.iter().map(|a| a.cos()).collect(),
        sin: angles.iter().map(|a| a.sin()).collect(),
        query: random.numbers(dim),
        key: random.numbers(dim),
    };
    let of_first = 8_u32.div_ceil(block_tokens as u32);
    let n_blocks = of_first + 18_u32.div_ceil(block_tokens as u32);
    let blocks: Vec<u32> = (0..n_blocks).rev().collect();
    let step = Step {
        tokens: &[1; 4],
        seq_start: &[0, 3, 4],
        seq_pos: &[5, 17],
        block_start: &[0, of_first, n_blocks],
        blocks: &blocks,
        rows: &[],
        copies: &[],
    };
    let shape = CacheShape {
        layers: 2,
        query_heads: heads.query,
        kv_heads: heads.kv,
        head_dim: dim,
        block_tokens,
        blocks: n_blocks as usize,
        dtype,
    };
    let batch = batch(&gpu, &step, block_tokens, TileTokens(16));
    let cache = cache(&gpu, shape);
    let mut on_gpu = buffer(&gpu, dtype, columns, &qkv);
    let (cos, sin) = (gpu.uploaded(&tables.cos).unwrap(), gpu.uploaded(&tables.sin).unwrap());
    let rope = Rope { cos, sin, half };
    let (query, key) = (vector(&gpu, &tables.query), vector(&gpu, &tables.key));
    let norms = norm.then_some(QkNorm { query: &query, key: &key, eps: EPS });
    rope_store(&gpu, &batch, &mut on_gpu, heads, norms, &rope, 1, &cache).unwrap();
    let (got, plane) = (values(&gpu, &on_gpu), cache.plane() / dtype.size());
    let stored = downloaded(&gpu, dtype, cache.memory.ptr(), 4 * plane);
    Ran { qkv, tables, blocks, first_blocks: of_first as usize, got, stored, plane }
}

fn check(case: &Case) {
    let Ran { qkv, tables, blocks, first_blocks, got, stored, plane } = run(case);
    let Case { dtype, heads, half, block_tokens, norm } = *case;
    let (dim, columns) = (heads.dim, heads.columns());
    let what = format!("{dtype:?} {heads:?} half {half}, blocks of {block_tokens}, norm {norm}");
    let tolerance = [4e-3, 1e-3, 1e-5][DTYPES.iter().position(|d| *d == dtype).unwrap()];
    let mut written = 0;
    for (t, position) in POSITION_OF.into_iter().enumerate() {
        let row = &qkv[t * columns..][..columns];
        let seq_blocks = &blocks[if t < 3 { 0 } else { first_blocks }..];
        let slot = |head: usize| {
            let block = seq_blocks[position / block_tokens] as usize * heads.kv + head;
            (block * block_tokens + position % block_tokens) * dim
        };
        for h in 0..heads.query + heads.kv {
            let is_query = h < heads.query;
            let weight = if is_query { &tables.query } else { &tables.key };
            let want = turned(&row[h * dim..][..dim], norm.then_some(weight), &tables, half, position);
            let got = if is_query {
                &got[t * columns + h * dim..][..dim]
            } else {
                &stored[2 * plane + slot(h - heads.query)..][..dim]
            };
            assert_close(&format!("{what}, token {t}, head {h}"), got, &want, 0.1, tolerance);
        }
        let rest = heads.query * dim;
        assert_eq!(got[t * columns + rest..][..columns - rest], row[rest..], "{what}: keys and values stay");
        for h in 0..heads.kv {
            let value = &row[(heads.query + heads.kv + h) * dim..][..dim];
            assert_eq!(stored[3 * plane + slot(h)..][..dim], *value, "{what}, token {t}, value {h}");
            written += 2 * dim;
        }
    }
    let there = stored.iter().filter(|v| !v.is_nan()).count();
    assert_eq!(there, written, "{what}: nothing else is written, least of all in layer 0");
}

#[test]
fn heads_turn_and_are_stored() {
    let few = |query, kv, dim| Heads { query, kv, dim };
    let shapes = [
        (few(4, 2, 64), 32, 16),
        (few(3, 1, 80), 40, 1),
        (few(2, 2, 96), 48, 4),
        (few(5, 1, 128), 64, 32),
        (few(1, 1, 256), 128, 16),
    ];
    for (i, (heads, half, block_tokens)) in shapes.into_iter().enumerate() {
        for dtype in DTYPES {
            check(&Case { dtype, heads, half, block_tokens, norm: i % 2 == 0 });
            check(&Case { dtype, heads, half, block_tokens, norm: i % 2 == 1 });
        }
    }
}

#[test]
fn a_part_of_a_head_may_turn() {
    let heads = Heads { query: 2, kv: 1, dim: 80 };
    for dtype in DTYPES {
        for half in [10, 5, 1] {
            check(&Case { dtype, heads, half, block_tokens: 8, norm: false });
            check(&Case { dtype, heads, half, block_tokens: 8, norm: true });
        }
    }
    let tiny = Heads { query: 2, kv: 1, dim: 8 };
    check(&Case { dtype: Dtype::Bf16, heads: tiny, half: 4, block_tokens: 2, norm: true });
}
