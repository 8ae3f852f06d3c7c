//! Sampling against its definition at `tm_row` in `tokenmill.h`, computed in f64 with a full sort.

mod definition;
mod draws;
mod edits;
mod rows;

use tokenmill_backend_model::device::{Dtype, RowSampling};
use tokenmill_cuda::Gpu;
use tokenmill_cuda::ops::sample::{Sampled, Space, sample};

use crate::support::{Random, buffer, values};

/// Tokens and log-probabilities of rows of logits, each sampled in its own way.
fn sampled(gpu: &Gpu, vocab: usize, logits: &[f32], rows: &[RowSampling<'_>]) -> (Vec<i32>, Vec<f32>) {
    let on_gpu = buffer(gpu, Dtype::F32, vocab, logits);
    let space = Space::new(gpu, rows.len(), vocab).unwrap();
    let mut out = Sampled::new(gpu, rows.len(), vocab).unwrap();
    sample(gpu, &on_gpu, rows, &space, &mut out).unwrap();
    let (mut tokens, mut logprobs) = (Vec::new(), Vec::new());
    out.fetch(&mut tokens, &mut logprobs).unwrap();
    let after: Vec<u32> = values(gpu, &on_gpu).into_iter().map(f32::to_bits).collect();
    let before: Vec<u32> = logits.iter().map(|l| l.to_bits()).collect();
    assert_eq!(after, before, "raw logits stay");
    (tokens, logprobs)
}

/// Logits as models have them: many low, few high.
fn some_logits(seed: u64, n: usize, spread: f32) -> Vec<f32> {
    let mut random = Random(seed);
    let mut bell = || (0..4).map(|_| random.number()).sum::<f32>();
    (0..n).map(|_| bell() * spread).collect()
}
