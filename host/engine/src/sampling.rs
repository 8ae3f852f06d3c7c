//! How the rows of a step are sampled: each request's own parameters, and a seed.

use tokenmill_backend::abi;

use crate::batch::Step;
use crate::engine::Engine;
use crate::mix::row_seed;
use crate::requests::Live;
use crate::sequences::Sequence;

/// The columns of `tokenmill_backend::Sampling`.
#[derive(Default)]
pub(crate) struct Sampling {
    pub(crate) rows: Vec<abi::Row>,
    pub(crate) bias_token: Vec<u32>,
    pub(crate) bias_value: Vec<f32>,
    seen_token: Vec<u32>,
    seen_count: Vec<u32>,
    pub(crate) masks: Vec<u32>,
}

impl Sampling {
    pub(crate) fn clear(&mut self) {
        self.rows.clear();
        self.bias_token.clear();
        self.bias_value.clear();
        self.seen_token.clear();
        self.seen_count.clear();
        self.masks.clear();
    }

    pub(crate) fn sampling(&self) -> tokenmill_backend::Sampling<'_> {
        tokenmill_backend::Sampling {
            rows: &self.rows,
            bias_token: &self.bias_token,
            bias_value: &self.bias_value,
            seen_token: &self.seen_token,
            seen_count: &self.seen_count,
            masks: &self.masks,
        }
    }

    /// What depends on the tokens so far.
    fn adjust(&mut self, row: &mut abi::Row, live: &Live, sequence: &Sequence, at: u32) {
        row.bias = self.bias_token.len() as u32;
        for &(token, value) in &live.params.logit_bias {
            self.bias(token, value);
        }
        if at - sequence.prompt < live.min_tokens {
            live.stop.iter().for_each(|token| self.bias(token, f32::NEG_INFINITY));
        }
        row.n_bias = self.bias_token.len() as u32 - row.bias;
        if let Some(seen) = &sequence.seen {
            row.seen = self.seen_token.len() as u32;
            row.n_seen = seen.tokens.len() as u32;
            self.seen_token.extend_from_slice(&seen.tokens);
            self.seen_count.extend_from_slice(&seen.counts);
        }
    }

    fn bias(&mut self, token: u32, value: f32) {
        self.bias_token.push(token);
        self.bias_value.push(value);
    }
}

impl Engine {
    /// One row of parameters for each row of a step.
    pub(crate) fn fill_sampling(&mut self, step: &Step) {
        let sampling = &mut self.sampling;
        sampling.clear();
        for row in &step.rows {
            // Whoever ended since then has a row all the same.
            let mut parameters = abi::Row::default();
            if let Some(sequence) = self.sequences.get(row.sequence) {
                if row.at < sequence.prompt {
                    parameters.forced = sequence.tokens[row.at as usize] as i32;
                } else if let Some(live) = self.requests.peek(sequence.request) {
                    parameters = live.row;
                    parameters.seed = row_seed(sequence.seed, row.at);
                    if sequence.adjusted {
                        sampling.adjust(&mut parameters, live, sequence, row.at);
                    }
                }
            }
            sampling.rows.push(parameters);
        }
    }
}
