//! The weights of one rank, where its device wants them.

use crate::config::{Config, Mlp, RopeConfig};
use crate::device::{Activation, Attention, Device, Dtype, Heads, QkNorm};
use crate::error::Error;
use crate::load::Loader;
use crate::shard::Place;
use crate::weights::Weights;

/// What one rank holds of embedding, layers and output layer.
pub struct Transformer<D: Device> {
    /// `None`: the output layer's matrix is the table, or this is not the first stage.
    embedding: Option<D::Weight>,
    /// Those of its stage.
    pub(crate) layers: Vec<Layer<D>>,
    /// Of the last stage.
    pub(crate) output: Option<Output<D>>,
    pub(crate) ropes: Vec<D::Rope>,
    pub(crate) shape: Shape,
    /// Element type of the weights on the device.
    pub dtype: Dtype,
    /// Bytes of the weights on the device.
    pub bytes: u64,
}

/// Numbers that all layers share.
pub(crate) struct Shape {
    pub(crate) vocab: usize,
    pub(crate) hidden: usize,
    /// This rank's.
    pub(crate) heads: Heads,
    pub(crate) intermediate: usize,
    pub(crate) activation: Activation,
    pub(crate) eps: f32,
    pub(crate) embed_scale: f32,
    pub(crate) final_softcap: Option<f32>,
    pub(crate) place: Place,
}

/// The final norm and the output layer.
pub(crate) struct Output<D: Device> {
    pub(crate) norm: D::Vector,
    pub(crate) head: D::Weight,
    /// First token of this rank's share of the vocabulary.
    pub(crate) head_start: usize,
}

pub(crate) struct Linear<D: Device> {
    pub(crate) weight: D::Weight,
    pub(crate) bias: Option<D::Vector>,
}

/// Weights of `dim` each.
pub(crate) struct HeadNorms<D: Device> {
    pub(crate) query: D::Vector,
    pub(crate) key: D::Vector,
}

pub(crate) struct Layer<D: Device> {
    pub(crate) input_norm: D::Vector,
    /// Rows `[query | key | value]`.
    pub(crate) qkv: Linear<D>,
    pub(crate) qk_norm: Option<HeadNorms<D>>,
    pub(crate) rope: usize,
    pub(crate) attention: Attention,
    pub(crate) output: Linear<D>,
    pub(crate) post_attention_norm: Option<D::Vector>,
    pub(crate) mlp_norm: D::Vector,
    /// Rows `[gate | up]`.
    pub(crate) gate_up: Linear<D>,
    pub(crate) down: Linear<D>,
    pub(crate) post_mlp_norm: Option<D::Vector>,
}

impl<D: Device> Layer<D> {
    pub(crate) fn head_norm(&self, eps: f32) -> Option<QkNorm<'_, D::Vector>> {
        self.qk_norm.as_ref().map(|HeadNorms { query, key }| QkNorm { query, key, eps })
    }
}

/// How to load.
pub struct How<'a> {
    pub place: Place,
    /// `None` = as stored.
    pub dtype: Option<Dtype>,
    /// Positions that rotary tables cover.
    pub context: usize,
    /// Called with the stored bytes of each piece that was read.
    pub progress: &'a mut dyn FnMut(u64),
}

impl<D: Device> Transformer<D> {
    /// Token embeddings, `[vocab, hidden]`; `None` after the first stage.
    pub(crate) fn embedding(&self) -> Option<&D::Weight> {
        let tied = || self.output.as_ref().map(|output| &output.head);
        self.embedding.as_ref().or_else(tied).filter(|_| self.shape.place.stage.is_first())
    }

    /// Reads this rank's share of `weights` onto `device`.
    pub fn load<'a, B: AsRef<[u8]>>(
        device: &'a mut D,
        config: &'a Config,
        weights: &'a Weights<B>,
        how: How<'a>,
    ) -> Result<Self, Error> {
        let place = how.place;
        place.check(config)?;
        let ropes = ropes(device, config, how.context)?;
        let mut loader = Loader::new(device, config, weights, how)?;
        let layers = loader.layers()?;
        let Mlp::Gated { intermediate, activation } = config.mlp;
        Ok(Self {
            embedding: loader.embedding()?,
            layers,
            output: loader.output()?,
            ropes,
            shape: Shape {
                vocab: config.vocab,
                hidden: config.hidden,
                heads: place.shard.heads(config.heads),
                intermediate: place.shard.split(intermediate).len(),
                activation,
                eps: config.eps,
                embed_scale: config.embed_scale,
                final_softcap: config.final_softcap,
                place,
            },
            dtype: loader.dtype()?,
            bytes: loader.bytes,
        })
    }
}

fn ropes<D: Device>(device: &mut D, config: &Config, context: usize) -> Result<Vec<D::Rope>, Error> {
    let bytes: usize = config.ropes.iter().map(|rope| 4 * rope.rotary * context).sum();
    if bytes as u64 > device.free_memory() / 2 {
        return Err(Error::NoMemory(format!(
            "max_position_embeddings: rotary tables of {context} positions take {bytes} bytes; ask for a smaller context"
        )));
    }
    let rope = |rope: &RopeConfig| {
        let table = rope.table(context);
        device.rope(&table.cos, &table.sin, table.half)
    };
    config.ropes.iter().map(rope).collect()
}
