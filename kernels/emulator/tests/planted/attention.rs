//! Attention of a chunk of a prompt over paged keys and values, in more than one tile.

use std::ptr;

use super::{Case, compare, finished, numbers, widened};
use crate::harness::{Arg, Driver, Grid};

pub(crate) fn attention() -> Case {
    Case {
        name: "attention",
        files: &["attention_prefill.cu"],
        entries: &[("DIMS(bf16)\nDIMS(f16)", "ENTRY(bf16, 64)")],
        check,
    }
}

const DIM: usize = 64;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const QUERIES: usize = 70;
const KEYS: usize = 150;
const BLOCK: usize = 16;
const TILE: usize = 60; // tokens: 120 of 128 rows
const STRIDE: usize = (HEADS + 2 * KV_HEADS) * DIM;
const SCALE: f32 = 0.3;
/// In no order, as an allocator would give them.
const BLOCKS: [u32; 10] = [7, 2, 9, 0, 11, 4, 5, 1, 10, 3];
const ALL_BLOCKS: usize = 12;

/// The words of `batch.cuh` for one sequence.
fn batch() -> Vec<u32> {
    const HEADER: u32 = 16;
    let arrays: [&[u32]; 11] = [
        &[], // tokens, positions, slots and rows: attention does not read them
        &[],
        &[],
        &[],
        &[0, QUERIES as u32],
        &[KEYS as u32],
        &[0, BLOCKS.len() as u32],
        &BLOCKS,
        &[],
        &[0, 0],
        &[0, TILE as u32],
    ];
    let mut words = vec![QUERIES as u32, 1, 1, 0, 2];
    let mut at = HEADER;
    for array in arrays {
        words.push(at);
        at += array.len() as u32;
    }
    words.extend(arrays.concat());
    words
}

fn check(driver: &Driver) -> Result<(), String> {
    let qkv = numbers(QUERIES * STRIDE, 6);
    let plane = ALL_BLOCKS * KV_HEADS * BLOCK * DIM;
    let (keys, values) = (numbers(plane, 7), numbers(plane, 8));
    let pointers =
        [driver.uploaded(&batch()), driver.uploaded(&qkv), driver.uploaded(&keys), driver.uploaded(&values)];
    let out = driver.alloc(QUERIES * HEADS * DIM * 2);
    let grid =
        Grid { blocks: [KV_HEADS as u32, 3, 1], threads: 128, shared: ((128 + 2 * 64) * DIM * 2) as u32 };
    let sizes = [HEADS, KV_HEADS, BLOCK, TILE].map(|size| Arg::U32(size as u32));
    let args = [
        &pointers.map(Arg::Ptr)[..],
        &[Arg::Ptr(out)],
        &sizes,
        &[Arg::F32(SCALE), Arg::F32(0.0), Arg::U32(0)],
    ]
    .concat();
    finished(driver, driver.launch("attention_prefill_bf16_64", grid, &args, ptr::null_mut()))?;
    let got = driver
        .download::<u16>(out, QUERIES * HEADS * DIM)
        .map_err(|status| format!("{status}: {}", driver.report()))?;
    let got: Vec<f64> = got.iter().map(|v| widened(*v)).collect();
    compare(&got, &reference(&qkv, &keys, &values), 1e-2)
}

fn reference(qkv: &[u16], keys: &[u16], values: &[u16]) -> Vec<f64> {
    let mut out = Vec::new();
    for query in 0..QUERIES {
        for head in 0..HEADS {
            let row = |plane: &[u16], key: usize| -> Vec<f64> {
                let block = BLOCKS[key / BLOCK] as usize * KV_HEADS + head / (HEADS / KV_HEADS);
                let at = (block * BLOCK + key % BLOCK) * DIM;
                plane[at..at + DIM].iter().map(|v| widened(*v)).collect()
            };
            let q = &qkv[query * STRIDE + head * DIM..][..DIM];
            let seen = KEYS - QUERIES + query + 1;
            let weights: Vec<f64> = (0..seen)
                .map(|key| {
                    let score: f64 = q.iter().zip(row(keys, key)).map(|(q, k)| widened(*q) * k).sum();
                    (score * f64::from(SCALE)).exp()
                })
                .collect();
            let total: f64 = weights.iter().sum();
            let mut sum = vec![0.0; DIM];
            for (key, weight) in weights.iter().enumerate() {
                for (sum, value) in sum.iter_mut().zip(row(values, key)) {
                    *sum += weight / total * value;
                }
            }
            out.extend(sum);
        }
    }
    out
}
