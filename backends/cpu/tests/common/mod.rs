//! Runs the decoder on the CPU device, one rank or several, for the tests of this folder.
#![allow(dead_code)]

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenmill_backend_model::config::Config;
use tokenmill_backend_model::decoder::{Decoder, Sizes};
use tokenmill_backend_model::device::{Dtype, Step};
use tokenmill_backend_model::error::Error;
use tokenmill_backend_model::shard::Place;
use tokenmill_backend_model::source::Source;
use tokenmill_backend_model::transformer::{How, Transformer};
use tokenmill_backend_model::weights::Weights;
use tokenmill_cpu::Cpu;

pub(crate) const BLOCK: usize = 4;

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub(crate) fn ids(value: &Value) -> Vec<i32> {
    value.as_array().unwrap().iter().map(|id| id.as_i64().unwrap() as i32).collect()
}

pub(crate) fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|id| id.as_f64().unwrap() as f32).collect()
}

struct Dir<'a>(&'a Path);

impl Source for Dir<'_> {
    type Bytes = Vec<u8>;
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(std::fs::read(self.0.join(name)).ok())
    }
}

/// One model on one or more ranks, with one sequence in blocks 0, 1, 2, …
pub(crate) struct Model {
    ranks: Vec<Decoder<Cpu>>,
    /// The first rank of the last stage.
    speaker: usize,
    pub(crate) config: Config,
    blocks: Vec<u32>,
}

pub(crate) struct Options {
    pub(crate) config: &'static str,
    /// Of rotary tables and cache; `None` = what the model was made for.
    pub(crate) context: Option<usize>,
    pub(crate) ranks: usize,
    /// Ranks that follow each other.
    pub(crate) stages: usize,
    pub(crate) dtype: Option<Dtype>,
}

impl Default for Options {
    fn default() -> Self {
        Self { config: "config.json", context: None, ranks: 1, stages: 1, dtype: Some(Dtype::F32) }
    }
}

impl Model {
    pub(crate) fn load(dir: &Path, options: &Options) -> Model {
        let config = Config::parse(&std::fs::read(dir.join(options.config)).unwrap()).unwrap();
        let weights = Weights::open(&Dir(dir)).unwrap();
        let context = options.context.unwrap_or(config.max_context);
        let blocks = context.div_ceil(BLOCK);
        let (ranks, tensor_parallel) = (options.ranks, options.ranks / options.stages);
        let load = |(rank, mut device)| {
            let place = Place::of(rank, ranks, tensor_parallel);
            let how = How { place, dtype: options.dtype, context, progress: &mut |_| {} };
            let model = Transformer::load(&mut device, &config, &weights, how).unwrap();
            let sizes = Sizes {
                block_tokens: BLOCK,
                blocks,
                kv_dtype: Dtype::F32,
                max_tokens: context,
                max_rows: 64,
                max_seqs: 4,
                max_block_refs: 4 * blocks,
                slots: 1,
            };
            Decoder::new(device, model, &sizes).unwrap()
        };
        let ranks = Cpu::group(ranks, tensor_parallel, ranks).into_iter().enumerate().map(load).collect();
        Model {
            ranks,
            speaker: tensor_parallel * (options.stages - 1),
            blocks: (0..blocks as u32).collect(),
            config,
        }
    }

    /// Logits of the tokens that `rows` points at, computed at positions `pos…`.
    pub(crate) fn step(&mut self, tokens: &[i32], pos: usize, rows: &[u32]) -> Vec<Vec<f32>> {
        let step = Step {
            tokens,
            seq_start: &[0, tokens.len() as u32],
            seq_pos: &[pos as u32],
            block_start: &[0, self.blocks.len() as u32],
            blocks: &self.blocks,
            rows,
            copies: &[],
        };
        std::thread::scope(|scope| {
            for rank in &mut self.ranks {
                scope.spawn(|| rank.forward(&step, 0, None).unwrap());
            }
        });
        let (vocab, speaker) = (self.config.vocab, self.speaker);
        let row = |row| {
            let mut out = vec![0.0; vocab];
            self.ranks[speaker].row(0, row, &mut out).unwrap();
            out
        };
        (0..rows.len()).map(row).collect()
    }

    /// Logits of the last token of `tokens`, fed from position 0.
    pub(crate) fn last(&mut self, tokens: &[i32]) -> Vec<f32> {
        self.step(tokens, 0, &[tokens.len() as u32 - 1]).remove(0)
    }

    /// Greedy tokens after `prompt`, with the cache.
    pub(crate) fn greedy(&mut self, prompt: &[i32], count: usize) -> Vec<i32> {
        let mut out = vec![argmax(&self.last(prompt))];
        while out.len() < count {
            let pos = prompt.len() + out.len() - 1;
            let logits = self.step(&out[out.len() - 1..], pos, &[0]).remove(0);
            out.push(argmax(&logits));
        }
        out
    }
}

pub(crate) fn argmax(logits: &[f32]) -> i32 {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best as i32
}

/// Largest difference of two rows.
pub(crate) fn furthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |most, off| if off > most || off.is_nan() { off } else { most })
}
