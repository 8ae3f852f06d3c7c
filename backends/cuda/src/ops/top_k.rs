//! The largest log-probabilities of a row.

use tokenmill_backend_model::error::Error;

use crate::buffer::Buffer;
use crate::gpu::{Arg, Gpu, Grid};
use crate::memory::Memory;

/// As many as the kernel finds; for more the row is sorted on the host.
const MOST: usize = 512;

/// Where the device leaves what it found; a rank has one.
pub struct TopK {
    found: Memory,
    words: Vec<u32>,
}

impl TopK {
    pub fn new(gpu: &Gpu) -> Result<Self, Error> {
        Ok(Self { found: gpu.alloc(4 * (1 + 2 * MOST))?, words: vec![0; 1 + 2 * MOST] })
    }

    /// Waits; the `ids.len()` largest log-probabilities of a row of raw logits, falling, the lower id first on a tie.
    pub fn of_row(
        &mut self,
        gpu: &Gpu,
        logits: &Buffer,
        row: usize,
        ids: &mut [u32],
        logprobs: &mut [f32],
    ) -> Result<(), Error> {
        let (k, vocab) = (ids.len(), logits.cols);
        if k == 0 {
            return Ok(());
        }
        if k <= MOST.min(vocab) {
            let grid = Grid { blocks: [1, 1, 1], threads: 1024, shared: 0 };
            let found = Arg::Ptr(self.found.ptr());
            let args = [Arg::Ptr(logits.row(row)), found, Arg::U32(vocab as u32), Arg::U32(k as u32)];
            gpu.launch("top_k_f32", grid, &args)?;
            gpu.download(self.found.ptr(), &mut self.words[..1 + 2 * k])?;
            if self.words[0] == 1 {
                ids.copy_from_slice(&self.words[1..=k]);
                let bits = &self.words[1 + k..];
                logprobs.iter_mut().zip(bits).for_each(|(to, bits)| *to = f32::from_bits(*bits));
                return Ok(());
            }
        }
        let mut values = vec![0.0; vocab];
        gpu.download(logits.row(row), &mut values)?;
        sorted(&values, ids, logprobs);
        Ok(())
    }
}

fn sorted(logits: &[f32], ids: &mut [u32], logprobs: &mut [f32]) {
    // So that -0 equals 0.
    let value = |id: u32| logits[id as usize] + 0.0;
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_unstable_by(|a, b| value(*b).total_cmp(&value(*a)).then(a.cmp(b)));
    let largest = f64::from(value(order[0]));
    let sum: f64 = logits.iter().map(|l| (f64::from(*l) - largest).exp()).sum();
    for ((id, logprob), found) in ids.iter_mut().zip(logprobs).zip(order) {
        *id = found;
        *logprob = (f64::from(value(found)) - largest - sum.ln()) as f32;
    }
}
