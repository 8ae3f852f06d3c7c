//! What the decoder asks of a device: about fifteen fused operations on contiguous buffers.
//!
//! Every activation is a row-major `[rows, cols]` buffer with a capacity fixed when it was allocated
//! and a current row count. Operations read the row count of their inputs and set that of their
//! output; a shape that does not fit is a defect of the decoder and may be asserted. Operations are
//! queued in order; only `top_k` and `row` wait for results.
//!
//! One value of the implementing type is one rank, which knows its place (`shard::Place`). Ranks of one
//! stage meet only in `all_reduce`, stages only in `send` and `receive`.
//!
//! Invariant: no strides, no broadcasting, no general tensor, no request, no file.

use crate::error::Error;

/// Element type of stored weights or KV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    F32,
    F16,
    Bf16,
}

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::Bf16 => 2,
        }
    }

    /// "f32", "f16", "bf16"
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
        }
    }
}

/// What a buffer holds, so that a device can choose its element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Sums over layers, ranks or a whole row: f32.
    Sum,
    /// What a matrix product reads next: f32, or the element type of the weights.
    Work,
}

/// A little-endian row-major matrix in host memory, `[rows, cols]` (`[out, in]` for a linear layer).
/// Row `i` begins at element `i * stride`: a column shard is a view, not a copy.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    pub dtype: Dtype,
    pub rows: usize,
    pub cols: usize,
    pub stride: usize,
    pub bytes: &'a [u8],
}

/// One step as the ABI describes it, already checked: see `tm_batch` in `tokenmill.h`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Step<'a> {
    /// Token ids, or `-1-r`: what row `r` of the previous step sampled.
    pub tokens: &'a [i32],
    pub seq_start: &'a [u32],
    pub seq_pos: &'a [u32],
    pub block_start: &'a [u32],
    pub blocks: &'a [u32],
    /// Token indices whose logits are kept; may repeat.
    pub rows: &'a [u32],
    /// Blocks copied before the step runs.
    pub copies: &'a [(u32, u32)],
}

/// How one row is sampled: `tm_row` without its ranges. The order of operations stands in `tokenmill.h`.
#[derive(Clone, Copy, Debug)]
pub struct RowSampling<'a> {
    pub seed: u64,
    pub temperature: f32,
    pub top_p: f32,
    pub min_p: f32,
    pub repetition: f32,
    pub presence: f32,
    pub frequency: f32,
    pub top_k: u32,
    /// `None` = sample; else the result whatever the logits say.
    pub forced: Option<u32>,
    /// Added to the logits.
    pub bias_token: &'a [u32],
    pub bias_value: &'a [f32],
    /// What penalties apply to, and how often each was generated (0: only in the prompt).
    pub seen_token: &'a [u32],
    pub seen_count: &'a [u32],
    /// `ceil(vocab / 32)` words; empty = all tokens allowed.
    pub mask: &'a [u32],
}

impl RowSampling<'_> {
    /// Draws from the whole distribution as it is.
    pub const PLAIN: RowSampling<'static> = RowSampling {
        seed: 0,
        temperature: 1.0,
        top_p: 1.0,
        min_p: 0.0,
        repetition: 1.0,
        presence: 0.0,
        frequency: 0.0,
        top_k: 0,
        forced: None,
        bias_token: &[],
        bias_value: &[],
        seen_token: &[],
        seen_count: &[],
        mask: &[],
    };
    /// Takes the likeliest token.
    pub const GREEDY: RowSampling<'static> = RowSampling { temperature: 0.0, ..Self::PLAIN };
}

/// Shape of this rank's attention heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    pub query: usize,
    pub kv: usize,
    pub dim: usize,
}

impl Heads {
    /// Columns of a fused `[query | key | value]` row.
    pub fn columns(&self) -> usize {
        (self.query + 2 * self.kv) * self.dim
    }
}

/// Numbers of one attention layer.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    pub heads: Heads,
    /// Multiplies query·key.
    pub scale: f32,
    /// A query sees itself and `window - 1` tokens before it; `None` = everything before it.
    pub window: Option<usize>,
    /// `cap * tanh(score / cap)` (Gemma 2).
    pub softcap: Option<f32>,
}

/// Gate of a gated MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    Silu,
    /// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`
    GeluTanh,
    /// `0.5 x (1 + erf(x / sqrt 2))`
    Gelu,
}

/// Normalisation of query and key heads before rotation (Qwen 3, Gemma 3): weights of `dim` each.
pub struct QkNorm<'a, V> {
    pub query: &'a V,
    pub key: &'a V,
    pub eps: f32,
}

/// Shape of the KV cache of one rank.
#[derive(Clone, Copy, Debug)]
pub struct CacheShape {
    pub layers: usize,
    /// Of the attention that reads it.
    pub query_heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub block_tokens: usize,
    pub blocks: usize,
    pub dtype: Dtype,
}

impl CacheShape {
    /// Bytes of one block over all layers: keys and values.
    pub fn block_bytes(&self) -> usize {
        2 * self.layers * self.kv_heads * self.head_dim * self.block_tokens * self.dtype.size()
    }
}

/// Tokens and log-probabilities, one of each per row.
pub type Rows<'a> = (&'a [i32], &'a [f32]);

pub trait Device {
    /// Activations.
    type Buffer;
    /// Matrix of a linear layer or table of embeddings, in the device's own layout; a tied model's is both.
    type Weight;
    /// One-dimensional f32 parameters (norm weights, biases).
    type Vector;
    /// Cosines and sines by position.
    type Rope;
    /// Paged keys and values of all layers.
    type Cache;
    /// Index arrays of one step, where the device reads them.
    type Batch;
    /// Tokens and log-probabilities of one step's rows.
    type Sampled;

    /// Shown to users: `"CPU, 2 threads, AMX"`.
    fn describe(&self) -> String;
    /// Bytes this rank may still use, for sizing the KV cache.
    fn free_memory(&self) -> u64;

    // --- set-up; nothing below the line allocates ---

    fn buffer(&mut self, capacity: usize, cols: usize, precision: Precision) -> Result<Self::Buffer, Error>;
    /// Stacks `parts` by rows into one matrix (`q|k|v`, `gate|up`); all have the same `cols`.
    fn weight(&mut self, parts: &[Matrix<'_>]) -> Result<Self::Weight, Error>;
    fn vector(&mut self, values: &[f32]) -> Result<Self::Vector, Error>;
    /// `cos` and `sin` are `[positions, half]`; the first `2 * half` dimensions of a head rotate, as
    /// pairs `(i, i + half)` (Hugging Face's half-split layout).
    fn rope(&mut self, cos: &[f32], sin: &[f32], half: usize) -> Result<Self::Rope, Error>;
    /// Element type of keys and values beside weights of `weights`, if nobody asks for another.
    fn kv_dtype(&self, weights: Dtype) -> Dtype {
        if weights == Dtype::F32 { Dtype::F32 } else { Dtype::Bf16 }
    }
    fn cache(&mut self, shape: CacheShape) -> Result<Self::Cache, Error>;
    /// An empty batch, and room for `rows` results.
    fn batch(
        &mut self,
        max_tokens: usize,
        max_seqs: usize,
        max_rows: usize,
        max_blocks: usize,
    ) -> Result<Self::Batch, Error>;
    fn sampled(&mut self, max_rows: usize, vocab: usize) -> Result<Self::Sampled, Error>;

    // --- one step ---

    /// Copies the index arrays to the device, then runs `step.copies` on every layer of the cache.
    fn begin(
        &mut self,
        step: &Step<'_>,
        batch: &mut Self::Batch,
        cache: &mut Self::Cache,
    ) -> Result<(), Error>;
    /// After `begin`, before the operations of the step. `true`: the device queued what it recorded when a
    /// step of this shape ran into the same batch (a CUDA graph), and the caller queues nothing.
    fn replay(&mut self, _batch: &Self::Batch, _previous: Option<&Self::Sampled>) -> Result<bool, Error> {
        Ok(false)
    }
    /// All operations of the step are queued: a recording ends here.
    fn end(&mut self) -> Result<(), Error> {
        Ok(())
    }
    /// `out[t] = scale * table[tokens[t]]`; ids `-1-r` come from `previous`. `out` gets the batch's token count.
    fn embed(
        &mut self,
        batch: &Self::Batch,
        previous: Option<&Self::Sampled>,
        table: &Self::Weight,
        scale: f32,
        out: &mut Self::Buffer,
    ) -> Result<(), Error>;
    /// `x = x / sqrt(mean(x²) + eps) * weight`, row by row (arXiv 1910.07467).
    fn rms_norm(&mut self, x: &mut Self::Buffer, weight: &Self::Vector, eps: f32) -> Result<(), Error>;
    /// `residual += x`, then `out = residual / sqrt(mean(residual²) + eps) * weight`.
    fn add_rms_norm(
        &mut self,
        residual: &mut Self::Buffer,
        x: &Self::Buffer,
        weight: &Self::Vector,
        eps: f32,
        out: &mut Self::Buffer,
    ) -> Result<(), Error>;
    /// `out[:, column..column + weight.rows] = x · weightᵀ + bias`; other columns of `out` are kept if
    /// `column` or the widths leave any.
    fn linear(
        &mut self,
        x: &Self::Buffer,
        weight: &Self::Weight,
        bias: Option<&Self::Vector>,
        out: &mut Self::Buffer,
        column: usize,
    ) -> Result<(), Error>;
    /// On rows `[query | key | value]`: normalises heads if asked, rotates queries (in place) and keys,
    /// stores keys and values of `layer` at the batch's positions.
    #[allow(clippy::too_many_arguments)]
    fn rope_store(
        &mut self,
        batch: &Self::Batch,
        qkv: &mut Self::Buffer,
        heads: Heads,
        norm: Option<QkNorm<'_, Self::Vector>>,
        rope: &Self::Rope,
        layer: usize,
        cache: &mut Self::Cache,
    ) -> Result<(), Error>;
    /// Causal attention of every token over its sequence's cached keys (its own included), with online
    /// softmax (FlashAttention-2, arXiv 2307.08691). `qkv` as `rope_store` left it; `out` is `[tokens, query heads * dim]`.
    fn attention(
        &mut self,
        batch: &Self::Batch,
        qkv: &Self::Buffer,
        layer: usize,
        cache: &Self::Cache,
        how: &Attention,
        out: &mut Self::Buffer,
    ) -> Result<(), Error>;
    /// On rows `[gate | up]`: `out = activation(gate) * up`.
    fn gate_mul(
        &mut self,
        gate_up: &Self::Buffer,
        activation: Activation,
        out: &mut Self::Buffer,
    ) -> Result<(), Error>;
    /// `out[r] = x[batch.rows[r]]`.
    fn gather_rows(
        &mut self,
        batch: &Self::Batch,
        x: &Self::Buffer,
        out: &mut Self::Buffer,
    ) -> Result<(), Error>;
    /// `x = cap * tanh(x / cap)`.
    fn softcap(&mut self, x: &mut Self::Buffer, cap: f32) -> Result<(), Error>;
    /// Sets `rows` rows of `x` to zero (a vocabulary shard before `all_reduce`).
    fn zero(&mut self, x: &mut Self::Buffer, rows: usize) -> Result<(), Error>;
    /// Sums `x` over the ranks of this stage, the same bits on every rank.
    fn all_reduce(&mut self, x: &mut Self::Buffer) -> Result<(), Error>;

    // --- between stages; what is sent arrives in the order it was sent ---

    /// Sends a row of `x` for each token of the batch to the same shard of the next stage.
    fn send(&mut self, batch: &Self::Batch, x: &Self::Buffer) -> Result<(), Error>;
    /// `out` gets the rows that the same shard of the stage before sent.
    fn receive(&mut self, batch: &Self::Batch, out: &mut Self::Buffer) -> Result<(), Error>;
    /// From the last stage to the same shard of the first: the tokens of the last `sample` into `sampled`, which
    /// had `rows` rows.
    fn send_sampled(&mut self, sampled: &Self::Sampled, rows: usize) -> Result<(), Error>;
    /// On the first stage: `sampled` gets the tokens that the last one sent, for `embed`.
    fn receive_sampled(&mut self, sampled: &mut Self::Sampled, rows: usize) -> Result<(), Error>;

    /// Samples every row of `logits` (raw, f32) into `out`, with log-probabilities of the raw logits.
    fn sample(
        &mut self,
        logits: &Self::Buffer,
        rows: &[RowSampling<'_>],
        out: &mut Self::Sampled,
    ) -> Result<(), Error>;
    /// Calls `done` once all that is queued so far has run, from any thread, perhaps before this returns.
    fn finished(&mut self, done: impl FnOnce(Result<(), Error>) + Send + 'static) -> Result<(), Error>;
    /// As `finished`, with the tokens (-1: no finite logit) and log-probabilities of the last `sample` into
    /// `sampled`.
    fn fetch(
        &mut self,
        sampled: &Self::Sampled,
        done: impl FnOnce(Result<Rows<'_>, Error>) + Send + 'static,
    ) -> Result<(), Error>;
    /// Waits; the `ids.len()` largest log-probabilities of a row, falling, the lower id first on a tie.
    fn top_k(
        &mut self,
        logits: &Self::Buffer,
        row: usize,
        ids: &mut [u32],
        logprobs: &mut [f32],
    ) -> Result<(), Error>;
    /// Waits; copies one row to `out`.
    fn row(&mut self, logits: &Self::Buffer, row: usize, out: &mut [f32]) -> Result<(), Error>;
}
