//! How the rows of a step are sampled: each request's own parameters, and a seed.

use tokenmill_backend::abi;

use crate::batch::{Row, Step};
use crate::engine::Engine;
use crate::mix::{next_seed, row_seed};
use crate::requests::Live;
use crate::sequences::{NONE, Sequence};

/// The columns of `tokenmill_backend::Sampling`.
#[derive(Default)]
pub(crate) struct Sampling {
    pub(crate) rows: Vec<abi::Row>,
    /// Whose rows they are, where the next token's differs in the seed alone. Both stay from step to step.
    of: Vec<Row>,
    pub(crate) bias_token: Vec<u32>,
    pub(crate) bias_value: Vec<f32>,
    seen_token: Vec<u32>,
    seen_count: Vec<u32>,
    pub(crate) masks: Vec<u32>,
}

impl Sampling {
    /// All but the rows.
    fn clear(&mut self) {
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
        for &(token, value) in &live.rest.params.logit_bias {
            self.bias(token, value);
        }
        if at - sequence.prompt < live.rest.min_tokens {
            live.stop.iter().for_each(|token| self.bias(token, f32::NEG_INFINITY));
        }
        row.n_bias = self.bias_token.len() as u32 - row.bias;
        if sequence.penalised {
            let seen = &sequence.rest.seen;
            row.seen = self.seen_token.len() as u32;
            row.n_seen = seen.tokens.len() as u32;
            self.seen_token.extend_from_slice(&seen.tokens);
            self.seen_count.extend_from_slice(&seen.counts);
        }
    }

    /// Room for all that these sequences can ever have seen, so that later steps need no more.
    fn reserve_seen(&mut self, most: usize) {
        let more = most.saturating_sub(self.seen_token.len());
        self.seen_token.reserve(more);
        self.seen_count.reserve(more);
    }

    fn set(&mut self, nth: usize, of: Row, parameters: abi::Row) {
        if nth < self.rows.len() {
            (self.of[nth], self.rows[nth]) = (of, parameters);
        } else {
            self.of.push(of);
            self.rows.push(parameters);
        }
    }

    /// The row is not what the request asks for: it is made anew for the next token.
    pub(crate) fn differ(&mut self, nth: usize) {
        self.of[nth].at = NONE;
    }

    /// The row's token, whatever the logits say.
    pub(crate) fn force(&mut self, nth: u32, token: u32) {
        self.rows[nth as usize].forced = token as i32;
    }

    /// Biases beside those that a row has.
    pub(crate) fn add_bias(&mut self, nth: usize, more: impl Iterator<Item = (u32, f32)>) {
        let row = self.rows[nth];
        let start = self.bias_token.len() as u32;
        for i in row.bias..row.bias + row.n_bias {
            self.bias(self.bias_token[i as usize], self.bias_value[i as usize]);
        }
        more.for_each(|(token, value)| self.bias(token, value));
        self.rows[nth].bias = start;
        self.rows[nth].n_bias = self.bias_token.len() as u32 - start;
    }

    fn bias(&mut self, token: u32, value: f32) {
        self.bias_token.push(token);
        self.bias_value.push(value);
    }
}

impl Engine {
    /// One row of parameters for each row of a step.
    pub(crate) fn fill_sampling(&mut self, step: &Step) {
        let Self { sampling, sequences, requests, .. } = self;
        sampling.clear();
        let mut most = 0;
        for (nth, &row) in step.rows.iter().enumerate() {
            // The row of the token before: only the seed changes.
            if sampling.of.get(nth) == Some(&Row { at: row.at - 1, ..row }) {
                sampling.of[nth] = row;
                sampling.rows[nth].seed = next_seed(sampling.rows[nth].seed);
                continue;
            }
            // Whoever ended since then has a row all the same.
            let mut parameters = abi::Row::default();
            let mut of = Row { at: NONE, ..row };
            if let Some(sequence) = sequences.get(row.sequence) {
                if row.at < sequence.prompt {
                    parameters.forced = sequence.tokens.all()[row.at as usize] as i32;
                } else if let Some(live) = requests.get(sequence.request) {
                    parameters = live.rest.row;
                    parameters.seed = row_seed(sequence.rest.seed, row.at);
                    if sequence.adjusted {
                        sampling.adjust(&mut parameters, live, sequence, row.at);
                        most += sequence.rest.seen.tokens.capacity();
                    } else {
                        of = row;
                    }
                }
            }
            sampling.set(nth, of, parameters);
        }
        sampling.rows.truncate(step.rows.len());
        sampling.of.truncate(step.rows.len());
        sampling.reserve_seen(most);
    }
}
