//! The forward pass: `begin`, `embed`, layers of attention and MLP, the output layer. Where ranks follow each
//! other, each stage runs its layers and sends the residual and its last branch on; what the last stage sampled
//! goes back to the first.
//!
//! Invariant: nothing here allocates after `new`; device calls and the buffers they get do not depend on
//! data, only on the numbers of tokens and rows: a device may record a step and replay it.

use std::mem::swap;

use crate::device::{CacheShape, Device, Dtype, Precision, RowSampling, Rows, Step};
use crate::error::Error;
use crate::transformer::{Layer, Shape, Transformer};

/// What a decoder is built to hold.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub block_tokens: usize,
    pub blocks: usize,
    pub kv_dtype: Dtype,
    /// Of one step, at most.
    pub max_tokens: usize,
    pub max_rows: usize,
    pub max_seqs: usize,
    /// Entries of `Step::blocks`, at most.
    pub max_block_refs: usize,
    /// Steps whose logits and samples are kept.
    pub slots: usize,
}

impl Sizes {
    /// Tokens or rows of one step, whichever may be more.
    fn widest(&self) -> usize {
        self.max_tokens.max(self.max_rows)
    }
}

/// One rank: a device, its weights, its KV cache and its activations.
pub struct Decoder<D: Device> {
    device: D,
    model: Transformer<D>,
    cache: D::Cache,
    run: Activations<D>,
    slots: Vec<Slot<D>>,
}

/// `[max_tokens, …]` each; what comes after the last attention also holds `max_rows`.
struct Activations<D: Device> {
    /// Sum of the embedding and all branches so far.
    residual: D::Buffer,
    normed: D::Buffer,
    /// What the last branch (attention or MLP) adds to the residual.
    branch: D::Buffer,
    qkv: D::Buffer,
    attended: D::Buffer,
    gate_up: D::Buffer,
    gated: D::Buffer,
    /// Rows of the residual and of the branch that go on after the last attention.
    picked: [D::Buffer; 2],
}

/// What is kept of a step.
struct Slot<D: Device> {
    batch: D::Batch,
    /// `[max_rows, vocab]`, on the last stage.
    logits: Option<D::Buffer>,
    sampled: D::Sampled,
    /// Of the batch.
    rows: usize,
}

impl<D: Device> Slot<D> {
    fn logits(&self) -> Result<&D::Buffer, Error> {
        self.logits.as_ref().ok_or_else(|| Error::Invalid("only the last stage has logits".into()))
    }
}

impl<D: Device> Activations<D> {
    /// The rows that go on take the place of the whole step, or give it back.
    fn swap_picked(&mut self) {
        let [residual, branch] = &mut self.picked;
        swap(&mut self.residual, residual);
        swap(&mut self.branch, branch);
    }
}

impl<D: Device> Transformer<D> {
    /// The KV cache this rank needs.
    pub fn cache_shape(&self, block_tokens: usize, blocks: usize, dtype: Dtype) -> CacheShape {
        let heads = self.shape.heads;
        CacheShape {
            layers: self.layers.len(),
            query_heads: heads.query,
            kv_heads: heads.kv,
            head_dim: heads.dim,
            block_tokens,
            blocks,
            dtype,
        }
    }

    /// Bytes of activations and kept logits, all f32.
    pub fn work_bytes(&self, sizes: &Sizes) -> u64 {
        let Shape { vocab, hidden, heads, intermediate, .. } = &self.shape;
        let token = 2 * hidden + heads.columns() + heads.query * heads.dim;
        let either = hidden + 3 * intermediate;
        let row = 2 * hidden + if self.output.is_some() { vocab * sizes.slots } else { 0 };
        let floats = |each: usize, count: usize| each as u64 * count as u64;
        4 * (floats(token, sizes.max_tokens) + floats(either, sizes.widest()) + floats(row, sizes.max_rows))
    }
}

impl<D: Device> Decoder<D> {
    /// Allocates everything.
    pub fn new(mut device: D, model: Transformer<D>, sizes: &Sizes) -> Result<Self, Error> {
        let Shape { vocab, hidden, heads, intermediate, .. } = model.shape;
        let cache = device.cache(model.cache_shape(sizes.block_tokens, sizes.blocks, sizes.kv_dtype))?;
        let (tokens, rows, widest) = (sizes.max_tokens, sizes.max_rows, sizes.widest());
        let run = Activations {
            residual: device.buffer(tokens, hidden, Precision::Sum)?,
            normed: device.buffer(widest, hidden, Precision::Work)?,
            branch: device.buffer(tokens, hidden, Precision::Sum)?,
            gate_up: device.buffer(widest, 2 * intermediate, Precision::Work)?,
            gated: device.buffer(widest, intermediate, Precision::Work)?,
            picked: [
                device.buffer(rows, hidden, Precision::Sum)?,
                device.buffer(rows, hidden, Precision::Sum)?,
            ],
            qkv: device.buffer(tokens, heads.columns(), Precision::Work)?,
            attended: device.buffer(tokens, heads.query * heads.dim, Precision::Work)?,
        };
        let slot = |_| {
            Ok(Slot {
                batch: device.batch(
                    sizes.max_tokens,
                    sizes.max_seqs,
                    sizes.max_rows,
                    sizes.max_block_refs,
                )?,
                logits: match model.output {
                    Some(_) => Some(device.buffer(rows, vocab, Precision::Sum)?),
                    None => None,
                },
                sampled: device.sampled(rows, vocab)?,
                rows: 0,
            })
        };
        let slots = (0..sizes.slots).map(slot).collect::<Result<_, Error>>()?;
        Ok(Self { device, model, cache, run, slots })
    }

    /// Queues one step into `slot`. `previous` is the slot whose samples tokens `-1-r` refer to.
    pub fn forward(&mut self, step: &Step<'_>, slot: usize, previous: Option<usize>) -> Result<(), Error> {
        if let Some(previous) = previous.filter(|_| step.tokens.iter().any(|token| *token < 0)) {
            self.share_sampled(previous)?;
        }
        self.slots[slot].rows = step.rows.len();
        self.device.begin(step, &mut self.slots[slot].batch, &mut self.cache)?;
        if step.tokens.is_empty() {
            return Ok(());
        }
        let sampled = previous.map(|slot| &self.slots[slot].sampled);
        if self.device.replay(&self.slots[slot].batch, sampled)? {
            return Ok(());
        }
        self.enter(step.tokens.len(), slot, previous)?;
        let last = self.model.layers.len() - 1;
        for index in 0..last {
            self.attention(index, slot)?;
            self.mlp(index)?;
        }
        self.attention(last, slot)?;
        match &self.model.output {
            None => self.leave(last, slot)?,
            // All keys and values are stored: only the rows asked for go on.
            Some(_) if step.rows.is_empty() => {}
            Some(_) => self.picked(slot, last, step.rows.len())?,
        }
        self.device.end()
    }

    /// The first stage embeds what the last one sampled in `slot`.
    fn share_sampled(&mut self, slot: usize) -> Result<(), Error> {
        let Slot { sampled, rows, .. } = &mut self.slots[slot];
        let stage = self.model.shape.place.stage;
        match (stage.is_first(), stage.is_last()) {
            (true, false) => self.device.receive_sampled(sampled, *rows),
            (false, true) => self.device.send_sampled(sampled, *rows),
            _ => Ok(()),
        }
    }

    /// The residual and the branch that the first layer of this stage starts from.
    fn enter(&mut self, tokens: usize, slot: usize, previous: Option<usize>) -> Result<(), Error> {
        let (device, run, model) = (&mut self.device, &mut self.run, &self.model);
        let batch = &self.slots[slot].batch;
        let Some(table) = model.embedding() else {
            device.receive(batch, &mut run.residual)?;
            return device.receive(batch, &mut run.branch);
        };
        let previous = previous.map(|slot| &self.slots[slot].sampled);
        device.embed(batch, previous, table, model.shape.embed_scale, &mut run.residual)?;
        device.zero(&mut run.branch, tokens)
    }

    /// The last MLP, and the way to the next stage.
    fn leave(&mut self, last: usize, slot: usize) -> Result<(), Error> {
        self.mlp(last)?;
        let batch = &self.slots[slot].batch;
        self.device.send(batch, &self.run.residual)?;
        self.device.send(batch, &self.run.branch)
    }

    /// The last MLP and the output layer, on the step's rows alone.
    fn picked(&mut self, slot: usize, last: usize, rows: usize) -> Result<(), Error> {
        let (device, run, batch) = (&mut self.device, &mut self.run, &self.slots[slot].batch);
        let [residual, branch] = &mut run.picked;
        device.gather_rows(batch, &run.residual, residual)?;
        device.gather_rows(batch, &run.branch, branch)?;
        run.swap_picked();
        let done = self.mlp(last).and_then(|()| self.logits(slot, rows));
        self.run.swap_picked();
        done
    }

    fn attention(&mut self, index: usize, slot: usize) -> Result<(), Error> {
        let (device, run, Shape { eps, .. }) = (&mut self.device, &mut self.run, &self.model.shape);
        let layer = &self.model.layers[index];
        let batch = &self.slots[slot].batch;
        device.add_rms_norm(&mut run.residual, &run.branch, &layer.input_norm, *eps, &mut run.normed)?;
        device.linear(&run.normed, &layer.qkv.weight, layer.qkv.bias.as_ref(), &mut run.qkv, 0)?;
        let (heads, norm, rope) =
            (layer.attention.heads, layer.head_norm(*eps), &self.model.ropes[layer.rope]);
        device.rope_store(batch, &mut run.qkv, heads, norm, rope, index, &mut self.cache)?;
        device.attention(batch, &run.qkv, index, &self.cache, &layer.attention, &mut run.attended)?;
        device.linear(&run.attended, &layer.output.weight, layer.output.bias.as_ref(), &mut run.branch, 0)?;
        self.join(|layer| layer.post_attention_norm.as_ref(), index)
    }

    fn mlp(&mut self, index: usize) -> Result<(), Error> {
        let (device, run, shape) = (&mut self.device, &mut self.run, &self.model.shape);
        let layer = &self.model.layers[index];
        device.add_rms_norm(&mut run.residual, &run.branch, &layer.mlp_norm, shape.eps, &mut run.normed)?;
        device.linear(
            &run.normed,
            &layer.gate_up.weight,
            layer.gate_up.bias.as_ref(),
            &mut run.gate_up,
            0,
        )?;
        device.gate_mul(&run.gate_up, shape.activation, &mut run.gated)?;
        device.linear(&run.gated, &layer.down.weight, layer.down.bias.as_ref(), &mut run.branch, 0)?;
        self.join(|layer| layer.post_mlp_norm.as_ref(), index)
    }

    /// Sums a branch over the ranks, and norms it where the architecture does.
    fn join(
        &mut self,
        post_norm: impl Fn(&Layer<D>) -> Option<&D::Vector>,
        index: usize,
    ) -> Result<(), Error> {
        let (device, run, model) = (&mut self.device, &mut self.run, &self.model);
        device.all_reduce(&mut run.branch)?;
        if let Some(weight) = post_norm(&model.layers[index]) {
            device.rms_norm(&mut run.branch, weight, model.shape.eps)?;
        }
        Ok(())
    }

    /// The final norm and the output layer, on the last stage.
    fn logits(&mut self, slot: usize, rows: usize) -> Result<(), Error> {
        let (device, run, shape) = (&mut self.device, &mut self.run, &self.model.shape);
        let (Some(output), Some(logits)) = (&self.model.output, &mut self.slots[slot].logits) else {
            return Ok(());
        };
        device.add_rms_norm(&mut run.residual, &run.branch, &output.norm, shape.eps, &mut run.normed)?;
        if shape.place.shard.ranks > 1 {
            device.zero(logits, rows)?;
        }
        device.linear(&run.normed, &output.head, None, logits, output.head_start)?;
        device.all_reduce(logits)?;
        match shape.final_softcap {
            Some(cap) => device.softcap(logits, cap),
            None => Ok(()),
        }
    }

    /// Queues sampling of the rows of the step in `slot`: on the last stage.
    pub fn sample(&mut self, rows: &[RowSampling<'_>], slot: usize) -> Result<(), Error> {
        match &mut self.slots[slot] {
            Slot { logits: Some(logits), sampled, .. } => self.device.sample(logits, rows, sampled),
            Slot { logits: None, .. } => Ok(()),
        }
    }

    /// `done` is called once all that is queued so far has run.
    pub fn finished(&mut self, done: impl FnOnce(Result<(), Error>) + Send + 'static) -> Result<(), Error> {
        self.device.finished(done)
    }

    /// `done` gets what was sampled in `slot`.
    pub fn fetch(
        &mut self,
        slot: usize,
        done: impl FnOnce(Result<Rows<'_>, Error>) + Send + 'static,
    ) -> Result<(), Error> {
        self.device.fetch(&self.slots[slot].sampled, done)
    }

    /// Waits; the largest log-probabilities of a row, falling.
    pub fn top_k(
        &mut self,
        slot: usize,
        row: usize,
        ids: &mut [u32],
        logprobs: &mut [f32],
    ) -> Result<(), Error> {
        self.device.top_k(self.slots[slot].logits()?, row, ids, logprobs)
    }

    /// Waits; copies the raw logits of a row.
    pub fn row(&mut self, slot: usize, row: usize, out: &mut [f32]) -> Result<(), Error> {
        self.device.row(self.slots[slot].logits()?, row, out)
    }
}
