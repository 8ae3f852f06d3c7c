//! The logits of the step, read through the host.

use tokenmill_policy::{
    Error,
    sample::{self, TopK},
};

use crate::bindings::sampling as wit;

pub(crate) struct Logits<'a> {
    host: &'a wit::Logits,
    /// The row that was read last.
    read: Option<(u32, Vec<f32>)>,
}

impl<'a> Logits<'a> {
    pub(crate) fn new(host: &'a wit::Logits) -> Self {
        Self { host, read: None }
    }
}

impl sample::Logits for Logits<'_> {
    fn vocab(&self) -> u32 {
        self.host.vocab()
    }

    fn top_k(&mut self, row: u32, k: u32) -> Result<(Vec<u32>, Vec<f32>), Error> {
        Ok(self.host.top_k(row, k))
    }

    fn batch_top_k(&mut self, rows: &[u32], k: &[u32]) -> Result<TopK, Error> {
        let (tokens, logprobs) = self.host.batch_top_k(rows, k);
        Ok(TopK { starts: tokens.starts, tokens: tokens.values, logprobs })
    }

    fn read(&mut self, row: u32) -> Result<&[f32], Error> {
        let kept = self.read.take().filter(|(one, _)| *one == row);
        let (_, values) = self.read.insert(kept.unwrap_or_else(|| (row, self.host.read(row))));
        Ok(values)
    }

    fn gather(&mut self, row: u32, tokens: &[u32]) -> Result<Vec<f32>, Error> {
        Ok(self.host.gather(row, tokens))
    }

    fn entropy(&mut self, row: u32) -> Result<f32, Error> {
        Ok(self.host.entropy(row))
    }
}
