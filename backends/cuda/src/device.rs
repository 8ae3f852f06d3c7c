//! `Device` on one GPU.

use tokenmill_backend_model::device::{
    Activation, Attention, CacheShape, Device, Dtype, Heads, Matrix, Precision, QkNorm, RowSampling, Rows,
    Step,
};
use tokenmill_backend_model::error::Error;

use crate::batch::{Batch, Room, TileTokens};
use crate::buffer::{Buffer, Cache, Rope, Vector, Weight};
use crate::completion::Completion;
use crate::gpu::Gpu;
use crate::graph::{self, Graph, Graphs, Key};
use crate::nccl::Comm;
use crate::ops::copy::Copies;
use crate::ops::sample::Sampled;
use crate::ops::top_k::TopK;
use crate::ops::{self, attention, linear, sample};
use crate::weights;

/// One rank.
pub struct Cuda {
    // Told first what still runs, then freed.
    completion: Completion,
    graphs: Option<Graphs>,
    comm: Comm,
    /// Element type of the weights, once there are any.
    work: Dtype,
    /// Of the cache, once it is there, and how the queries of a step are cut.
    shape: Option<(CacheShape, TileTokens)>,
    linear: linear::Workspace,
    /// Once the cache and the sequences of a step are known.
    attention: Option<attention::Workspace>,
    /// Once the vocabulary is known.
    sampling: Option<sample::Space>,
    top_k: TopK,
    gpu: Gpu,
}

/// A step's index arrays and block copies.
pub struct Input {
    batch: Batch,
    copies: Copies,
}

impl Cuda {
    /// The GPU it works on.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Records what `queue` queues instead of running it. All its kernels have run before, and the buffers it names outlive
    /// the graph.
    pub fn record<E: From<Error>>(
        &mut self,
        queue: impl FnOnce(&mut Self) -> Result<(), E>,
    ) -> Result<Graph, E> {
        graph::begin(self.gpu.context())?;
        let queued = queue(self);
        let graph = Graph::end(self.gpu.context());
        queued?;
        Ok(graph?)
    }

    pub(crate) fn new(gpu: Gpu, comm: Comm, graphs: bool, gemm: linear::Library) -> Result<Self, Error> {
        Ok(Self {
            completion: Completion::new(&gpu)?,
            graphs: graphs.then(Graphs::default),
            comm,
            work: Dtype::F32,
            shape: None,
            linear: linear::Workspace::with(&gpu, gemm)?,
            attention: None,
            sampling: None,
            top_k: TopK::new(&gpu)?,
            gpu,
        })
    }
}

impl Device for Cuda {
    type Buffer = Buffer;
    type Weight = Weight;
    type Vector = Vector;
    type Rope = Rope;
    type Cache = Cache;
    type Batch = Input;
    type Sampled = Sampled;

    fn describe(&self) -> String {
        let about = self.gpu.properties();
        format!("{}, compute capability {}.{}", about.name, about.major, about.minor)
    }

    /// All that is free but for a twentieth of the device: the driver, modules, workspaces and graphs.
    fn free_memory(&self) -> u64 {
        let (free, total) = self.gpu.memory().unwrap_or((0, 0));
        free.saturating_sub(total / 20)
    }

    fn buffer(&mut self, capacity: usize, cols: usize, precision: Precision) -> Result<Buffer, Error> {
        let dtype = match precision {
            Precision::Sum => Dtype::F32,
            Precision::Work => self.work,
        };
        Ok(Buffer::new(self.gpu.alloc(capacity * cols * dtype.size())?, dtype, capacity, cols))
    }

    fn weight(&mut self, parts: &[Matrix<'_>]) -> Result<Weight, Error> {
        let weight = weights::stack(&self.gpu, parts)?;
        self.work = weight.dtype;
        Ok(weight)
    }

    fn vector(&mut self, values: &[f32]) -> Result<Vector, Error> {
        Ok(Vector { memory: self.gpu.uploaded(values)?, len: values.len() })
    }

    fn rope(&mut self, cos: &[f32], sin: &[f32], half: usize) -> Result<Rope, Error> {
        Ok(Rope { cos: self.gpu.uploaded(cos)?, sin: self.gpu.uploaded(sin)?, half })
    }

    fn kv_dtype(&self, weights: Dtype) -> Dtype {
        weights
    }

    fn cache(&mut self, shape: CacheShape) -> Result<Cache, Error> {
        if shape.dtype != self.work {
            return Err(Error::Unsupported(format!(
                "kv_dtype={}: on CUDA keys and values have the element type of the weights, {}",
                shape.dtype.name(),
                self.work.name()
            )));
        }
        self.shape = Some((shape, attention::tile_tokens(&shape)?));
        Ok(Cache { memory: self.gpu.alloc(shape.block_bytes() * shape.blocks)?, shape })
    }

    fn batch(
        &mut self,
        max_tokens: usize,
        max_seqs: usize,
        max_rows: usize,
        max_blocks: usize,
    ) -> Result<Input, Error> {
        if let (None, Some((shape, _))) = (&self.attention, &self.shape) {
            self.attention = Some(attention::Workspace::new(&self.gpu, shape, max_seqs)?);
        }
        let room = Room { tokens: max_tokens, seqs: max_seqs, rows: max_rows, blocks: max_blocks };
        Ok(Input { batch: Batch::new(&self.gpu, room)?, copies: Copies::new(&self.gpu, 2 * max_seqs)? })
    }

    fn sampled(&mut self, max_rows: usize, vocab: usize) -> Result<Sampled, Error> {
        if self.sampling.is_none() {
            self.sampling = Some(sample::Space::new(&self.gpu, max_rows, vocab)?);
        }
        Sampled::new(&self.gpu, max_rows, vocab)
    }

    fn begin(&mut self, step: &Step<'_>, input: &mut Input, cache: &mut Cache) -> Result<(), Error> {
        let tile = self.shape.map_or(TileTokens(1), |(_, tile)| tile);
        input.batch.fill(&self.gpu, step, cache.shape.block_tokens, tile)?;
        if self.graphs.is_some() {
            input.batch.pad();
        }
        input.copies.run(&self.gpu, cache, step.copies)
    }

    fn replay(&mut self, input: &Input, previous: Option<&Sampled>) -> Result<bool, Error> {
        let (Some(graphs), Some(bucket)) = (&mut self.graphs, input.batch.bucket()) else { return Ok(false) };
        let previous = previous.map_or(0, Sampled::tokens);
        graphs.replay(self.gpu.context(), Key { batch: input.batch.ptr(), previous, bucket })
    }

    fn end(&mut self) -> Result<(), Error> {
        self.graphs.as_mut().map_or(Ok(()), |graphs| graphs.end(self.gpu.context()))
    }

    fn embed(
        &mut self,
        input: &Input,
        previous: Option<&Sampled>,
        table: &Weight,
        scale: f32,
        out: &mut Buffer,
    ) -> Result<(), Error> {
        ops::embed::embed(&self.gpu, &input.batch, previous, table, scale, out)
    }

    fn rms_norm(&mut self, x: &mut Buffer, weight: &Vector, eps: f32) -> Result<(), Error> {
        ops::norm::rms_norm(&self.gpu, x, weight, eps)
    }

    fn add_rms_norm(
        &mut self,
        residual: &mut Buffer,
        x: &Buffer,
        weight: &Vector,
        eps: f32,
        out: &mut Buffer,
    ) -> Result<(), Error> {
        ops::norm::add_rms_norm(&self.gpu, residual, x, weight, eps, out)
    }

    fn linear(
        &mut self,
        x: &Buffer,
        weight: &Weight,
        bias: Option<&Vector>,
        out: &mut Buffer,
        column: usize,
    ) -> Result<(), Error> {
        linear::linear(&self.gpu, &self.linear, x, weight, bias, out, column)
    }

    fn rope_store(
        &mut self,
        input: &Input,
        qkv: &mut Buffer,
        heads: Heads,
        norm: Option<QkNorm<'_, Vector>>,
        rope: &Rope,
        layer: usize,
        cache: &mut Cache,
    ) -> Result<(), Error> {
        ops::rope::rope_store(&self.gpu, &input.batch, qkv, heads, norm, rope, layer, cache)
    }

    fn attention(
        &mut self,
        input: &Input,
        qkv: &Buffer,
        layer: usize,
        cache: &Cache,
        how: &Attention,
        out: &mut Buffer,
    ) -> Result<(), Error> {
        let Some(workspace) = &self.attention else {
            return Err(Error::Invalid("attention before there is a batch".into()));
        };
        attention::attention(&self.gpu, workspace, &input.batch, qkv, layer, cache, how, out)
    }

    fn gate_mul(&mut self, gate_up: &Buffer, activation: Activation, out: &mut Buffer) -> Result<(), Error> {
        ops::gate::gate_mul(&self.gpu, gate_up, activation, out)
    }

    fn gather_rows(&mut self, input: &Input, x: &Buffer, out: &mut Buffer) -> Result<(), Error> {
        ops::rows::gather_rows(&self.gpu, &input.batch, x, out)
    }

    fn softcap(&mut self, x: &mut Buffer, cap: f32) -> Result<(), Error> {
        ops::rows::softcap(&self.gpu, x, cap)
    }

    /// Zeroes all there is room for up to the next bucket: how many rows a step has must not show in what is recorded.
    fn zero(&mut self, x: &mut Buffer, rows: usize) -> Result<(), Error> {
        let rows = crate::batch::bucket(rows).min(x.capacity);
        x.set_rows(rows);
        self.gpu.zero(x.ptr(), rows * x.cols * x.dtype.size())
    }

    fn all_reduce(&mut self, x: &mut Buffer) -> Result<(), Error> {
        self.comm.all_reduce(&self.gpu, x.ptr(), x.rows() * x.cols)
    }

    fn send(&mut self, input: &Input, x: &Buffer) -> Result<(), Error> {
        self.comm.send(&self.gpu, x.ptr(), input.batch.grid_tokens() * x.cols)
    }

    fn receive(&mut self, input: &Input, out: &mut Buffer) -> Result<(), Error> {
        out.set_rows(input.batch.grid_tokens());
        self.comm.receive(&self.gpu, out.ptr(), out.rows() * out.cols)
    }

    fn send_sampled(&mut self, sampled: &Sampled, rows: usize) -> Result<(), Error> {
        self.comm.send_tokens(&self.gpu, sampled.tokens(), rows)
    }

    fn receive_sampled(&mut self, sampled: &mut Sampled, rows: usize) -> Result<(), Error> {
        self.comm.receive_tokens(&self.gpu, sampled.tokens(), rows)
    }

    fn sample(&mut self, logits: &Buffer, rows: &[RowSampling<'_>], out: &mut Sampled) -> Result<(), Error> {
        match &self.sampling {
            Some(space) => sample::sample(&self.gpu, logits, rows, space, out),
            None => Err(Error::Invalid("sampling before there is room for its results".into())),
        }
    }

    fn finished(&mut self, done: impl FnOnce(Result<(), Error>) + Send + 'static) -> Result<(), Error> {
        let watch = self.comm.watch();
        self.completion.after(&self.gpu, move |ran| done(ran.and_then(|()| watch.check())))
    }

    fn fetch(
        &mut self,
        sampled: &Sampled,
        done: impl FnOnce(Result<Rows<'_>, Error>) + Send + 'static,
    ) -> Result<(), Error> {
        let (results, watch) = (sampled.results(), self.comm.watch());
        self.completion.after(&self.gpu, move |ran| match ran.and_then(|()| watch.check()) {
            // SAFETY: the slots of a decoder go after its device, which waits for the thread that runs this; the
            // device wrote the results before it reached this point. If the slot was given to another step since,
            // the ticket was released and nobody looks.
            Ok(()) => done(Ok(unsafe { results.read() })),
            Err(error) => done(Err(error)),
        })
    }

    fn top_k(
        &mut self,
        logits: &Buffer,
        row: usize,
        ids: &mut [u32],
        logprobs: &mut [f32],
    ) -> Result<(), Error> {
        self.top_k.of_row(&self.gpu, logits, row, ids, logprobs)
    }

    fn row(&mut self, logits: &Buffer, row: usize, out: &mut [f32]) -> Result<(), Error> {
        self.gpu.download(logits.row(row), out)
    }
}
