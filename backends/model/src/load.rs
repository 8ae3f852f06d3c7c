//! Reads one rank's share of every layer: tensor names, fused matrices, folded norms.
//!
//! This is where a linear layer is read, so this is where a quantized format will be told apart.

use std::ops::Range;

use crate::config::{Config, Mlp};
use crate::device::{Attention, Device, Dtype, Matrix};
use crate::error::Error;
use crate::matrix::Stored;
use crate::shard::{Place, Shard, Stage};
use crate::transformer::{HeadNorms, How, Layer, Linear, Output};
use crate::weights::Weights;

/// Where multimodal checkpoints keep their text model.
const PREFIXES: [&str; 3] = ["model.", "language_model.model.", "model.language_model."];
const HEADS: [&str; 2] = ["lm_head.weight", "language_model.lm_head.weight"];

pub(crate) struct Loader<'a, D: Device, B> {
    device: &'a mut D,
    config: &'a Config,
    weights: &'a Weights<B>,
    how: How<'a>,
    prefix: &'static str,
    /// Given to the device so far.
    pub(crate) bytes: u64,
}

/// Rows `range` of the stored linear layer `name`, which has `rows`.
struct Rows {
    name: String,
    rows: usize,
    range: Range<usize>,
}

impl<'a, D: Device, B: AsRef<[u8]>> Loader<'a, D, B> {
    pub(crate) fn new(
        device: &'a mut D,
        config: &'a Config,
        weights: &'a Weights<B>,
        how: How<'a>,
    ) -> Result<Self, Error> {
        let found = PREFIXES.into_iter().find(|prefix| weights.has(&format!("{prefix}embed_tokens.weight")));
        let prefix =
            found.ok_or_else(|| Error::Invalid("tensor model.embed_tokens.weight is missing".into()))?;
        Ok(Self { device, config, weights, how, prefix, bytes: 0 })
    }

    fn shard(&self) -> Shard {
        self.how.place.shard
    }

    fn stage(&self) -> Stage {
        self.how.place.stage
    }

    /// Element type of the linear layers: as asked, or as the embedding table is stored.
    pub(crate) fn dtype(&self) -> Result<Dtype, Error> {
        match self.how.dtype {
            Some(dtype) => Ok(dtype),
            None => Ok(self.embedding_table()?.dtype),
        }
    }

    /// Those of this rank's stage.
    pub(crate) fn layers(&mut self) -> Result<Vec<Layer<D>>, Error> {
        self.stage().layers(self.config.layers.len()).map(|index| self.layer(index)).collect()
    }

    fn layer(&mut self, index: usize) -> Result<Layer<D>, Error> {
        let config = self.config;
        let at = |name: &str| format!("layers.{index}.{name}");
        let hidden = config.hidden;
        // Gemma norms the outputs of both branches, and so its names are others.
        let (mlp_norm, post) = match config.post_norms {
            true => ("pre_feedforward_layernorm", true),
            false => ("post_attention_layernorm", false),
        };
        Ok(Layer {
            input_norm: self.norm(&at("input_layernorm"), hidden)?,
            qkv: self.qkv(&at("self_attn"))?,
            qk_norm: self.qk_norm(&at("self_attn"))?,
            rope: config.layers[index].rope,
            attention: Attention {
                heads: self.shard().heads(config.heads),
                scale: config.attention_scale,
                window: config.layers[index].window,
                softcap: config.softcap,
            },
            output: self.attention_output(&at("self_attn.o_proj"))?,
            post_attention_norm: self.norm_if(post, &at("post_attention_layernorm"), hidden)?,
            mlp_norm: self.norm(&at(mlp_norm), hidden)?,
            gate_up: self.gate_up(&at("mlp"))?,
            down: self.down(&at("mlp.down_proj"))?,
            post_mlp_norm: self.norm_if(post, &at("post_feedforward_layernorm"), hidden)?,
        })
    }

    fn qkv(&mut self, at: &str) -> Result<Linear<D>, Error> {
        let heads = self.config.heads;
        let (query, kv) = (heads.query * heads.dim, heads.kv * heads.dim);
        let own_query = self.shard().split(query);
        let own_kv = self.shard().kv_heads(heads.kv);
        let own_kv = own_kv.start * heads.dim..own_kv.end * heads.dim;
        let parts = [("q_proj", query, own_query), ("k_proj", kv, own_kv.clone()), ("v_proj", kv, own_kv)];
        self.stacked(at, "qkv_proj", parts, self.config.bias.qkv)
    }

    fn gate_up(&mut self, at: &str) -> Result<Linear<D>, Error> {
        let Mlp::Gated { intermediate, .. } = self.config.mlp;
        let own = self.shard().split(intermediate);
        let parts = [("gate_proj", intermediate, own.clone()), ("up_proj", intermediate, own)];
        self.stacked(at, "gate_up_proj", parts, self.config.bias.mlp)
    }

    /// Layers that the device sees as one: stored apart, or as one tensor called `fused`.
    fn stacked<const N: usize>(
        &mut self,
        at: &str,
        fused: &str,
        parts: [(&str, usize, Range<usize>); N],
        bias: bool,
    ) -> Result<Linear<D>, Error> {
        if !self.config.fused {
            return self.rows(
                parts.map(|(name, rows, range)| Rows { name: format!("{at}.{name}"), rows, range }),
                bias,
            );
        }
        let total = parts.iter().map(|(_, rows, _)| rows).sum();
        let mut before = 0;
        let parts = parts.map(|(_, rows, range)| {
            let range = before + range.start..before + range.end;
            before += rows;
            Rows { name: format!("{at}.{fused}"), rows: total, range }
        });
        self.rows(parts, bias)
    }

    fn attention_output(&mut self, name: &str) -> Result<Linear<D>, Error> {
        let heads = self.config.heads;
        self.columns(name, heads.query * heads.dim, self.config.bias.output)
    }

    fn down(&mut self, name: &str) -> Result<Linear<D>, Error> {
        let Mlp::Gated { intermediate, .. } = self.config.mlp;
        self.columns(name, intermediate, self.config.bias.mlp)
    }

    /// A layer split by rows: every rank computes some of the outputs.
    fn rows<const N: usize>(&mut self, parts: [Rows; N], bias: bool) -> Result<Linear<D>, Error> {
        let mut matrices = Vec::with_capacity(N);
        let mut biases = Vec::new();
        for Rows { name, rows, range } in parts {
            let name = format!("{}{name}", self.prefix);
            let whole = self.weights.matrix(&format!("{name}.weight"), rows, self.config.hidden)?;
            matrices.push(whole.row_range(range.clone()));
            if bias {
                biases.extend_from_slice(&self.weights.vector(&format!("{name}.bias"), rows)?[range]);
            }
        }
        let weight = self.weight(&matrices)?;
        let bias = if bias { Some(self.device.vector(&biases)?) } else { None };
        Ok(Linear { weight, bias })
    }

    /// A layer split by columns: ranks sum their outputs, so only the first adds the bias.
    fn columns(&mut self, name: &str, cols: usize, bias: bool) -> Result<Linear<D>, Error> {
        let name = format!("{}{name}", self.prefix);
        let rows = self.config.hidden;
        let range = self.shard().split(cols);
        let whole = self.weights.matrix(&format!("{name}.weight"), rows, cols)?;
        let weight = self.weight(&[whole.column_range(range)])?;
        let bias = if bias && self.shard().rank == 0 {
            Some(self.device.vector(&self.weights.vector(&format!("{name}.bias"), rows)?)?)
        } else {
            None
        };
        Ok(Linear { weight, bias })
    }

    fn weight(&mut self, parts: &[Matrix<'_>]) -> Result<D::Weight, Error> {
        let dtype = self.dtype()?;
        let stored: Vec<_> = parts.iter().map(|part| Stored::new(*part, Some(dtype))).collect();
        let matrices: Vec<_> = stored.iter().map(Stored::matrix).collect();
        let weight = self.device.weight(&matrices)?;
        for (part, matrix) in parts.iter().zip(&matrices) {
            self.count(part, matrix);
        }
        Ok(weight)
    }

    fn count(&mut self, read: &Matrix<'_>, given: &Matrix<'_>) {
        self.bytes += given.size() as u64;
        (self.how.progress)(read.size() as u64);
    }

    fn embedding_table(&self) -> Result<Matrix<'a>, Error> {
        let name = format!("{}embed_tokens.weight", self.prefix);
        self.weights.matrix(&name, self.config.vocab, self.config.hidden)
    }

    /// Every rank of the first stage keeps the whole table; `None` where its output layer is that, and in other stages.
    pub(crate) fn embedding(&mut self) -> Result<Option<D::Weight>, Error> {
        let Place { stage, shard } = self.how.place;
        let shared = self.config.tied && shard.ranks == 1 && stage.is_last();
        if shared || !stage.is_first() {
            return Ok(None);
        }
        self.weight(&[self.embedding_table()?]).map(Some)
    }

    /// `None` before the last stage.
    pub(crate) fn output(&mut self) -> Result<Option<Output<D>>, Error> {
        if !self.stage().is_last() {
            return Ok(None);
        }
        let norm = self.norm("norm", self.config.hidden)?;
        let head_start = self.shard().split(self.config.vocab).start;
        Ok(Some(Output { norm, head: self.head()?, head_start }))
    }

    /// This rank's share of the vocabulary.
    fn head(&mut self) -> Result<D::Weight, Error> {
        let own = HEADS.into_iter().find(|name| self.weights.has(name)).unwrap_or(HEADS[0]);
        let whole = match self.config.tied {
            true => self.embedding_table()?,
            false => self.weights.matrix(own, self.config.vocab, self.config.hidden)?,
        };
        self.weight(&[whole.row_range(self.shard().split(self.config.vocab))])
    }

    fn qk_norm(&mut self, at: &str) -> Result<Option<HeadNorms<D>>, Error> {
        if !self.config.qk_norm {
            return Ok(None);
        }
        let dim = self.config.heads.dim;
        let query = self.norm(&format!("{at}.q_norm"), dim)?;
        Ok(Some(HeadNorms { query, key: self.norm(&format!("{at}.k_norm"), dim)? }))
    }

    fn norm_if(&mut self, wanted: bool, name: &str, len: usize) -> Result<Option<D::Vector>, Error> {
        if wanted { self.norm(name, len).map(Some) } else { Ok(None) }
    }

    /// Norm weights, with what the checkpoint leaves out added.
    fn norm(&mut self, name: &str, len: usize) -> Result<D::Vector, Error> {
        let mut values = self.weights.vector(&format!("{}{name}.weight", self.prefix), len)?;
        values.iter_mut().for_each(|value| *value += self.config.norm_offset);
        self.device.vector(&values)
    }
}
