//! `Device` for one CPU rank.

use crate::reference;
use half::{bf16, f16};
use std::sync::{Arc, Barrier, Mutex};
use tokenmill_backend_model::device::*;
use tokenmill_backend_model::error::Error;

/// Where the ranks of a group meet.
struct Group {
    barrier: Barrier,
    slots: Vec<Mutex<Vec<f32>>>,
}

pub struct Cpu {
    rank: usize,
    group: Arc<Group>,
    threads: usize,
}

impl Cpu {
    /// One device per rank; together they use `threads` threads.
    pub fn group(ranks: usize, threads: usize) -> Vec<Cpu> {
        let slots = (0..ranks).map(|_| Mutex::default()).collect();
        let group = Arc::new(Group { barrier: Barrier::new(ranks), slots });
        (0..ranks).map(|rank| Cpu { rank, group: group.clone(), threads: (threads / ranks).max(1) }).collect()
    }
}

#[derive(Debug, Clone, Default)]
pub struct Buffer {
    cols: usize,
    rows: usize,
    data: Vec<f32>,
}

impl Buffer {
    fn row(&self, r: usize) -> &[f32] {
        &self.data[r * self.cols..][..self.cols]
    }
    fn row_mut(&mut self, r: usize) -> &mut [f32] {
        &mut self.data[r * self.cols..][..self.cols]
    }
    fn set_rows(&mut self, rows: usize) {
        assert!(rows * self.cols <= self.data.len());
        self.rows = rows;
    }
}

pub struct Weight {
    rows: usize,
    round: bool,
    data: Vec<f32>,
}

pub struct Embedding {
    cols: usize,
    data: Vec<f32>,
}

pub struct Rope {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

pub struct Cache {
    shape: CacheShape,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Cache {
    fn at(&self, layer: usize, block: usize, head: usize, slot: usize) -> usize {
        let s = &self.shape;
        (((layer * s.blocks + block) * s.kv_heads + head) * s.block_tokens + slot) * s.head_dim
    }
}

#[derive(Default)]
pub struct Batch {
    tokens: Vec<i32>,
    seq_start: Vec<u32>,
    seq_pos: Vec<u32>,
    block_start: Vec<u32>,
    blocks: Vec<u32>,
    rows: Vec<u32>,
}

impl Batch {
    fn seqs(&self) -> usize {
        self.seq_pos.len()
    }
}

#[derive(Default)]
pub struct Sampled {
    tokens: Vec<i32>,
    logprobs: Vec<f32>,
}

fn widen(m: &Matrix<'_>) -> Vec<f32> {
    let mut out = Vec::with_capacity(m.rows * m.cols);
    let size = m.dtype.size();
    for r in 0..m.rows {
        let row = &m.bytes[r * m.stride * size..][..m.cols * size];
        out.extend(row.chunks_exact(size).map(|b| match m.dtype {
            Dtype::F32 => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            Dtype::F16 => f16::from_le_bytes([b[0], b[1]]).to_f32(),
            Dtype::Bf16 => bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        }));
    }
    out
}

impl Device for Cpu {
    type Buffer = Buffer;
    type Weight = Weight;
    type Embedding = Embedding;
    type Vector = Vec<f32>;
    type Rope = Rope;
    type Cache = Cache;
    type Batch = Batch;
    type Sampled = Sampled;

    fn describe(&self) -> String {
        format!("CPU, {} threads", self.threads)
    }
    fn free_memory(&self) -> u64 {
        2 << 30
    }
    fn buffer(&mut self, capacity: usize, cols: usize) -> Result<Buffer, Error> {
        Ok(Buffer { cols, rows: 0, data: vec![0.0; capacity * cols] })
    }
    fn weight(&mut self, parts: &[Matrix<'_>]) -> Result<Weight, Error> {
        Ok(Weight {
            rows: parts.iter().map(|p| p.rows).sum(),
            round: parts.iter().any(|p| p.dtype == Dtype::Bf16),
            data: parts.iter().flat_map(widen).collect(),
        })
    }
    fn embedding(&mut self, table: Matrix<'_>) -> Result<Embedding, Error> {
        Ok(Embedding { cols: table.cols, data: widen(&table) })
    }
    fn vector(&mut self, values: &[f32]) -> Result<Vec<f32>, Error> {
        Ok(values.to_vec())
    }
    fn rope(&mut self, cos: &[f32], sin: &[f32], half: usize) -> Result<Rope, Error> {
        Ok(Rope { half, cos: cos.to_vec(), sin: sin.to_vec() })
    }
    fn cache(&mut self, shape: CacheShape) -> Result<Cache, Error> {
        let n = shape.layers * shape.blocks * shape.kv_heads * shape.block_tokens * shape.head_dim;
        Ok(Cache { shape, keys: vec![0.0; n], values: vec![0.0; n] })
    }
    fn batch(&mut self, _: usize, _: usize, _: usize, _: usize) -> Result<Batch, Error> {
        Ok(Batch::default())
    }
    fn sampled(&mut self, _: usize) -> Result<Sampled, Error> {
        Ok(Sampled::default())
    }
    fn begin(&mut self, step: &Step<'_>, batch: &mut Batch, cache: &mut Cache) -> Result<(), Error> {
        *batch = Batch {
            tokens: step.tokens.to_vec(),
            seq_start: step.seq_start.to_vec(),
            seq_pos: step.seq_pos.to_vec(),
            block_start: step.block_start.to_vec(),
            blocks: step.blocks.to_vec(),
            rows: step.rows.to_vec(),
        };
        let n = cache.shape.kv_heads * cache.shape.block_tokens * cache.shape.head_dim;
        for &(from, to) in step.copies {
            for layer in 0..cache.shape.layers {
                let from = cache.at(layer, from as usize, 0, 0);
                let to = cache.at(layer, to as usize, 0, 0);
                cache.keys.copy_within(from..from + n, to);
                cache.values.copy_within(from..from + n, to);
            }
        }
        Ok(())
    }
    fn embed(
        &mut self,
        batch: &Batch,
        previous: Option<&Sampled>,
        table: &Embedding,
        scale: f32,
        out: &mut Buffer,
    ) -> Result<(), Error> {
        out.set_rows(batch.tokens.len());
        for (t, &id) in batch.tokens.iter().enumerate() {
            let id = match previous {
                _ if id >= 0 => id,
                Some(p) => p.tokens[(-1 - id) as usize],
                None => -1,
            };
            let id = id.max(0) as usize;
            for (o, v) in out.row_mut(t).iter_mut().zip(&table.data[id * table.cols..]) {
                *o = scale * v;
            }
        }
        Ok(())
    }
    fn rms_norm(&mut self, x: &Buffer, weight: &Vec<f32>, eps: f32, out: &mut Buffer) -> Result<(), Error> {
        out.set_rows(x.rows);
        for r in 0..x.rows {
            reference::rows::rms_norm(x.row(r), weight, eps, out.row_mut(r));
        }
        Ok(())
    }
    fn add_rms_norm(
        &mut self,
        residual: &mut Buffer,
        x: &Buffer,
        weight: &Vec<f32>,
        eps: f32,
        out: &mut Buffer,
    ) -> Result<(), Error> {
        for r in 0..x.rows {
            for (a, b) in residual.row_mut(r).iter_mut().zip(x.row(r)) {
                *a += b;
            }
        }
        self.rms_norm(residual, weight, eps, out)
    }
    fn linear(
        &mut self,
        x: &Buffer,
        weight: &Weight,
        bias: Option<&Vec<f32>>,
        out: &mut Buffer,
        column: usize,
    ) -> Result<(), Error> {
        out.set_rows(x.rows);
        for r in 0..x.rows {
            let mut row = x.row(r).to_vec();
            if weight.round {
                row.iter_mut().for_each(|v| *v = bf16::from_f32(*v).to_f32());
            }
            let out = &mut out.row_mut(r)[column..column + weight.rows];
            reference::rows::linear(&row, &weight.data, bias.map(Vec::as_slice), out);
        }
        Ok(())
    }
    fn rope_store(
        &mut self,
        batch: &Batch,
        qkv: &mut Buffer,
        heads: Heads,
        norm: Option<QkNorm<'_, Vec<f32>>>,
        rope: &Rope,
        layer: usize,
        cache: &mut Cache,
    ) -> Result<(), Error> {
        let d = heads.dim;
        for s in 0..batch.seqs() {
            let first = batch.seq_start[s] as usize;
            for t in first..batch.seq_start[s + 1] as usize {
                let pos = batch.seq_pos[s] as usize + t - first;
                let row = qkv.row_mut(t);
                for h in 0..heads.query + heads.kv {
                    let head = &mut row[h * d..][..d];
                    if let Some(n) = &norm {
                        let x = head.to_vec();
                        let w = if h < heads.query { n.query } else { n.key };
                        reference::rows::rms_norm(&x, w, n.eps, head);
                    }
                    let at = pos * rope.half;
                    reference::rows::rotate(head, &rope.cos[at..][..rope.half], &rope.sin[at..][..rope.half]);
                }
                let bt = cache.shape.block_tokens;
                let block = batch.blocks[batch.block_start[s] as usize + pos / bt] as usize;
                for h in 0..heads.kv {
                    let at = cache.at(layer, block, h, pos % bt);
                    let bf = cache.shape.dtype == Dtype::Bf16;
                    let keep = |v: &f32| if bf { bf16::from_f32(*v).to_f32() } else { *v };
                    for i in 0..d {
                        cache.keys[at + i] = keep(&row[(heads.query + h) * d + i]);
                        cache.values[at + i] = keep(&row[(heads.query + heads.kv + h) * d + i]);
                    }
                }
            }
        }
        Ok(())
    }
    fn attention(
        &mut self,
        batch: &Batch,
        qkv: &Buffer,
        layer: usize,
        cache: &Cache,
        how: &Attention,
        out: &mut Buffer,
    ) -> Result<(), Error> {
        let (heads, d, bt) = (how.heads, how.heads.dim, cache.shape.block_tokens);
        out.set_rows(qkv.rows);
        for s in 0..batch.seqs() {
            let first = batch.seq_start[s] as usize;
            for t in first..batch.seq_start[s + 1] as usize {
                let pos = batch.seq_pos[s] as usize + t - first;
                let from = how.window.map_or(0, |w| (pos + 1).saturating_sub(w));
                for h in 0..heads.query {
                    let kv = h / (heads.query / heads.kv);
                    let at: Vec<usize> = (from..=pos)
                        .map(|p| {
                            let block = batch.blocks[batch.block_start[s] as usize + p / bt] as usize;
                            cache.at(layer, block, kv, p % bt)
                        })
                        .collect();
                    let keys: Vec<&[f32]> = at.iter().map(|&a| &cache.keys[a..][..d]).collect();
                    let values: Vec<&[f32]> = at.iter().map(|&a| &cache.values[a..][..d]).collect();
                    let q = &qkv.row(t)[h * d..][..d];
                    let out = &mut out.row_mut(t)[h * d..][..d];
                    reference::attention::attention(q, &keys, &values, how.scale, how.softcap, out);
                }
            }
        }
        Ok(())
    }
    fn gate_mul(&mut self, gate_up: &Buffer, activation: Activation, out: &mut Buffer) -> Result<(), Error> {
        out.set_rows(gate_up.rows);
        let n = out.cols;
        for r in 0..gate_up.rows {
            let (gate, up) = gate_up.row(r).split_at(n);
            for ((o, &g), u) in out.row_mut(r).iter_mut().zip(gate).zip(up) {
                *o = reference::rows::activate(g, activation) * u;
            }
        }
        Ok(())
    }
    fn gather_rows(&mut self, batch: &Batch, x: &Buffer, out: &mut Buffer) -> Result<(), Error> {
        out.set_rows(batch.rows.len());
        for (r, &from) in batch.rows.iter().enumerate() {
            out.row_mut(r).copy_from_slice(x.row(from as usize));
        }
        Ok(())
    }
    fn softcap(&mut self, x: &mut Buffer, cap: f32) -> Result<(), Error> {
        let n = x.rows * x.cols;
        x.data[..n].iter_mut().for_each(|v| *v = reference::rows::softcap(*v, cap));
        Ok(())
    }
    fn zero(&mut self, x: &mut Buffer, rows: usize) -> Result<(), Error> {
        x.set_rows(rows);
        let n = rows * x.cols;
        x.data[..n].fill(0.0);
        Ok(())
    }
    fn all_reduce(&mut self, x: &mut Buffer) -> Result<(), Error> {
        let lost = || Error::Lost("a rank failed".into());
        let n = x.rows * x.cols;
        {
            let mut slot = self.group.slots[self.rank].lock().map_err(|_| lost())?;
            slot.clear();
            slot.extend_from_slice(&x.data[..n]);
        }
        self.group.barrier.wait();
        x.data[..n].fill(0.0);
        for slot in &self.group.slots {
            for (x, v) in x.data.iter_mut().zip(slot.lock().map_err(|_| lost())?.iter()) {
                *x += v;
            }
        }
        self.group.barrier.wait();
        Ok(())
    }
    fn sample(&mut self, logits: &Buffer, rows: &[RowSampling<'_>], out: &mut Sampled) -> Result<(), Error> {
        out.tokens.clear();
        out.logprobs.clear();
        for (r, how) in rows.iter().enumerate() {
            let token = reference::sample::sample(logits.row(r), how);
            out.tokens.push(token);
            let at = token.max(0) as usize;
            out.logprobs.push(if token < 0 {
                f32::NEG_INFINITY
            } else {
                reference::sample::log_probability(logits.row(r), at)
            });
        }
        Ok(())
    }
    fn fetch(&mut self, s: &Sampled, tokens: &mut Vec<i32>, logprobs: &mut Vec<f32>) -> Result<(), Error> {
        tokens.extend_from_slice(&s.tokens);
        logprobs.extend_from_slice(&s.logprobs);
        Ok(())
    }
    fn top_k(
        &mut self,
        logits: &Buffer,
        row: usize,
        ids: &mut [u32],
        logprobs: &mut [f32],
    ) -> Result<(), Error> {
        let l = logits.row(row);
        let mut order: Vec<u32> = (0..l.len() as u32).collect();
        order.sort_by(|&a, &b| l[b as usize].total_cmp(&l[a as usize]).then(a.cmp(&b)));
        for ((id, lp), &t) in ids.iter_mut().zip(logprobs).zip(&order) {
            *id = t;
            *lp = reference::sample::log_probability(l, t as usize);
        }
        Ok(())
    }
    fn row(&mut self, logits: &Buffer, row: usize, out: &mut [f32]) -> Result<(), Error> {
        out.copy_from_slice(logits.row(row));
        Ok(())
    }
}
