//! `Device` for one CPU rank: each operation is cut into chunks for the rank's threads.

use crate::attention;
use crate::batch::Batch;
use crate::buffer::Buffer;
use crate::cache::{Cache, Store};
use crate::linear;
use crate::memory::Parts;
use crate::paths::Paths;
use crate::rope::{HeadNorm, Rope, RopeStore};
use crate::rows::{AddNorm, Gate, Norm, Softcap};
use crate::sample;
use crate::stages::Stages;
use crate::threads::Pool;
use crate::weight::Weight;
use std::sync::Arc;
use tokenmill_backend_model::device::{
    Activation, Attention, CacheShape, Device, Heads, Matrix, Precision, QkNorm, RowSampling, Rows, Step,
};
use tokenmill_backend_model::error::Error;
use tokenmill_backend_model::shard::Place;

/// What reading an element of a packed row costs, in elements of other operations: it lies on another line.
const EMBED_COST: usize = 4;

/// Tokens and log-probabilities of one step's rows.
#[derive(Default)]
pub struct Sampled {
    tokens: Vec<i32>,
    logprobs: Vec<f32>,
}

/// One rank.
pub struct Cpu {
    paths: Paths,
    pool: Pool,
    stages: Arc<Stages>,
    place: Place,
    /// Sums over the ranks so far.
    sums: u64,
    linear: linear::Scratch,
    attention: attention::Scratch,
    sampling: Vec<sample::Scratch>,
}

impl Cpu {
    /// One device per rank on the fastest paths of this machine; `threads` are shared out among them.
    pub fn group(ranks: usize, tensor_parallel: usize, threads: usize) -> Vec<Cpu> {
        let stages = Arc::new(Stages::new(ranks, tensor_parallel));
        let place = |rank| Place::of(rank, ranks, tensor_parallel);
        let rank = |rank| Cpu::new(stages.clone(), place(rank), threads / ranks, Paths::best());
        (0..ranks).map(rank).collect()
    }

    /// The rank at `place`, on `threads` threads (at least one, the caller's).
    pub fn new(stages: Arc<Stages>, place: Place, threads: usize, paths: Paths) -> Cpu {
        Cpu {
            paths,
            pool: Pool::new(threads.max(1)),
            stages,
            place,
            sums: 0,
            linear: linear::Scratch::default(),
            attention: attention::Scratch::default(),
            sampling: Vec::new(),
        }
    }

    fn sampling_room(&mut self, vocab: usize) {
        if self.sampling.first().is_none_or(|s| !s.fits(vocab)) {
            self.sampling = (0..self.pool.threads()).map(|_| sample::Scratch::new(vocab)).collect();
        }
    }
}

impl Device for Cpu {
    type Buffer = Buffer;
    type Weight = Weight;
    type Vector = Vec<f32>;
    type Rope = Rope;
    type Cache = Cache;
    type Batch = Batch;
    type Sampled = Sampled;

    fn describe(&self) -> String {
        let threads = self.pool.threads() * self.stages.ranks();
        let plural = if threads == 1 { "" } else { "s" };
        format!("CPU, {threads} thread{plural}, {}", self.paths.name())
    }

    fn free_memory(&self) -> u64 {
        crate::system::available_memory()
    }

    fn buffer(&mut self, capacity: usize, cols: usize, _: Precision) -> Result<Buffer, Error> {
        let buffer = Buffer::new(capacity, cols)?;
        self.linear.reserve(capacity, cols)?;
        Ok(buffer)
    }

    fn weight(&mut self, parts: &[Matrix<'_>]) -> Result<Weight, Error> {
        Weight::pack(parts)
    }

    fn vector(&mut self, values: &[f32]) -> Result<Vec<f32>, Error> {
        Ok(values.to_vec())
    }

    fn rope(&mut self, cos: &[f32], sin: &[f32], half: usize) -> Result<Rope, Error> {
        Ok(Rope { half, cos: cos.to_vec(), sin: sin.to_vec() })
    }

    fn cache(&mut self, shape: CacheShape) -> Result<Cache, Error> {
        self.attention.reserve(self.pool.threads(), shape.head_dim);
        Cache::new(shape)
    }

    fn batch(
        &mut self,
        max_tokens: usize,
        max_seqs: usize,
        max_rows: usize,
        max_blocks: usize,
    ) -> Result<Batch, Error> {
        self.attention.reserve_items(max_tokens);
        Ok(Batch::with_capacity(max_tokens, max_seqs, max_rows, max_blocks))
    }

    fn sampled(&mut self, max_rows: usize, _: usize) -> Result<Sampled, Error> {
        Ok(Sampled { tokens: Vec::with_capacity(max_rows), logprobs: Vec::with_capacity(max_rows) })
    }

    fn begin(&mut self, step: &Step<'_>, batch: &mut Batch, cache: &mut Cache) -> Result<(), Error> {
        batch.fill(step);
        cache.copy_blocks(step.copies);
        Ok(())
    }

    fn embed(
        &mut self,
        batch: &Batch,
        previous: Option<&Sampled>,
        table: &Weight,
        scale: f32,
        out: &mut Buffer,
    ) -> Result<(), Error> {
        out.set_rows(batch.tokens.len());
        let cols = table.cols;
        let out = Parts::new(out.all_mut());
        self.pool.rows(batch.tokens.len(), EMBED_COST * cols, |tokens| {
            for t in tokens {
                let id = match (batch.tokens[t], previous) {
                    (id @ ..0, Some(previous)) => previous.tokens.get((-1 - id) as usize).copied(),
                    (id, _) => Some(id),
                };
                // A row without a finite logit sampled -1: any token will do, for the host drops what follows.
                let id = id.and_then(|id| usize::try_from(id).ok()).filter(|id| *id < table.rows);
                // SAFETY: chunks hold disjoint tokens.
                let out = unsafe { out.part(t * cols..(t + 1) * cols) };
                table.read_row(id.unwrap_or(0), scale, out);
            }
        });
        Ok(())
    }

    fn rms_norm(&mut self, x: &mut Buffer, weight: &Vec<f32>, eps: f32) -> Result<(), Error> {
        let isa = self.paths.isa;
        let (rows, n) = (x.rows(), weight.len());
        let x = Parts::new(x.all_mut());
        self.pool.rows(rows, n, |rows| isa.run(Norm { rows, x, weight, eps }));
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
        out.set_rows(x.rows());
        let isa = self.paths.isa;
        let (rows, n, x) = (x.rows(), weight.len(), x.all());
        let (residual, out) = (Parts::new(residual.all_mut()), Parts::new(out.all_mut()));
        self.pool.rows(rows, n, |rows| isa.run(AddNorm { rows, residual, x, weight, eps, out }));
        Ok(())
    }

    fn linear(
        &mut self,
        x: &Buffer,
        weight: &Weight,
        bias: Option<&Vec<f32>>,
        out: &mut Buffer,
        column: usize,
    ) -> Result<(), Error> {
        assert!(x.cols == weight.cols && column + weight.rows <= out.cols, "a product of wrong shape");
        out.set_rows(x.rows());
        let (cols, bias) = (out.cols, bias.map(Vec::as_slice));
        let target = linear::Target { out: Parts::new(out.all_mut()), cols, column, bias };
        linear::linear(&self.paths, &mut self.pool, &mut self.linear, x.all(), x.rows(), weight, target);
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
        let isa = self.paths.isa;
        let norm = norm.map(|n| HeadNorm { query: n.query, key: n.key, eps: n.eps });
        let (rows, cols) = (qkv.rows(), qkv.cols);
        let (qkv, shape) = (Parts::new(qkv.all_mut()), &cache.shape);
        match &mut cache.data {
            Store::F32(data) => {
                let cache = Parts::new(&mut data[..]);
                self.pool.rows(rows, cols, |tokens| {
                    isa.run(RopeStore { tokens, batch, qkv, heads, norm, rope, layer, shape, cache })
                });
            }
            Store::Bf16(data) => {
                let cache = Parts::new(&mut data[..]);
                self.pool.rows(rows, cols, |tokens| {
                    isa.run(RopeStore { tokens, batch, qkv, heads, norm, rope, layer, shape, cache })
                });
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
        out.set_rows(qkv.rows());
        let job = attention::Job { batch, qkv: qkv.all(), layer, cache, how };
        attention::attention(&self.paths, &mut self.pool, &mut self.attention, &job, out.all_mut());
        Ok(())
    }

    fn gate_mul(&mut self, gate_up: &Buffer, activation: Activation, out: &mut Buffer) -> Result<(), Error> {
        out.set_rows(gate_up.rows());
        let isa = self.paths.isa;
        let (rows, cols, gate_up) = (gate_up.rows(), out.cols, gate_up.all());
        let out = Parts::new(out.all_mut());
        self.pool.rows(rows, 2 * cols, |rows| isa.run(Gate { rows, cols, gate_up, activation, out }));
        Ok(())
    }

    fn gather_rows(&mut self, batch: &Batch, x: &Buffer, out: &mut Buffer) -> Result<(), Error> {
        out.set_rows(batch.rows.len());
        let cols = out.cols;
        for (&row, out) in batch.rows.iter().zip(out.all_mut().chunks_exact_mut(cols)) {
            out.copy_from_slice(x.row(row as usize));
        }
        Ok(())
    }

    fn softcap(&mut self, x: &mut Buffer, cap: f32) -> Result<(), Error> {
        let isa = self.paths.isa;
        let (rows, cols) = (x.rows(), x.cols);
        let x = Parts::new(x.all_mut());
        self.pool.rows(rows, cols, |rows| isa.run(Softcap { rows, cols, x, cap }));
        Ok(())
    }

    fn zero(&mut self, x: &mut Buffer, rows: usize) -> Result<(), Error> {
        x.set_rows(rows);
        x.all_mut().fill(0.0);
        Ok(())
    }

    fn all_reduce(&mut self, x: &mut Buffer) -> Result<(), Error> {
        let turn = self.sums;
        self.sums += 1;
        self.stages.groups[self.place.stage.index].sum(self.place.shard.rank, turn, x.all_mut())
    }

    fn send(&mut self, _: &Batch, x: &Buffer) -> Result<(), Error> {
        if let Some(next) = self.place.next() {
            self.stages.rows[next].send(x.all());
        }
        Ok(())
    }

    fn receive(&mut self, batch: &Batch, out: &mut Buffer) -> Result<(), Error> {
        out.set_rows(batch.tokens.len());
        self.stages.rows[self.place.rank()].receive(out.all_mut())
    }

    fn send_sampled(&mut self, sampled: &Sampled, rows: usize) -> Result<(), Error> {
        self.stages.tokens[self.place.first()].send(&sampled.tokens[..rows]);
        Ok(())
    }

    fn receive_sampled(&mut self, sampled: &mut Sampled, rows: usize) -> Result<(), Error> {
        sampled.tokens.resize(rows, -1);
        self.stages.tokens[self.place.rank()].receive(&mut sampled.tokens)
    }

    fn sample(&mut self, logits: &Buffer, rows: &[RowSampling<'_>], out: &mut Sampled) -> Result<(), Error> {
        self.sampling_room(logits.cols);
        out.tokens.resize(rows.len(), -1);
        out.logprobs.resize(rows.len(), f32::NEG_INFINITY);
        let isa = self.paths.isa;
        let (tokens, logprobs) = (Parts::new(&mut out.tokens), Parts::new(&mut out.logprobs));
        let rooms = Parts::new(&mut self.sampling);
        self.pool.run(rows.len(), |r, thread| {
            // SAFETY: chunks are different rows, and a thread runs one at a time.
            let (room, token, logprob) =
                unsafe { (rooms.part(thread..thread + 1), tokens.part(r..r + 1), logprobs.part(r..r + 1)) };
            (token[0], logprob[0]) = sample::sample(isa, logits.row(r), &rows[r], &mut room[0]);
        });
        Ok(())
    }

    fn finished(&mut self, done: impl FnOnce(Result<(), Error>)) -> Result<(), Error> {
        done(Ok(()));
        Ok(())
    }

    fn fetch(&mut self, sampled: &Sampled, done: impl FnOnce(Result<Rows<'_>, Error>)) -> Result<(), Error> {
        done(Ok((&sampled.tokens, &sampled.logprobs)));
        Ok(())
    }

    fn top_k(
        &mut self,
        logits: &Buffer,
        row: usize,
        ids: &mut [u32],
        logprobs: &mut [f32],
    ) -> Result<(), Error> {
        self.sampling_room(logits.cols);
        sample::top_k(self.paths.isa, logits.row(row), &mut self.sampling[0], ids, logprobs);
        Ok(())
    }

    fn row(&mut self, logits: &Buffer, row: usize, out: &mut [f32]) -> Result<(), Error> {
        out.copy_from_slice(logits.row(row));
        Ok(())
    }
}
