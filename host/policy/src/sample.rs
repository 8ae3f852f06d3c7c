//! How the rows of a step become tokens.

use std::borrow::Cow;
use std::sync::Arc;

use crate::{Error, Host};

/// Sets sampling parameters, and picks tokens where that is not enough.
pub trait Sampler: Send {
    /// Once, before anything else; `config` is the operator's text. The default takes none.
    fn configure(&mut self, config: &str, host: Host) -> Result<(), Error> {
        let _ = host;
        crate::error::no_config(config)
    }

    /// Once per step for all rows of this policy, while the forward pass runs.
    fn plan(&mut self, view: &dyn View, knobs: &mut Knobs) -> Result<(), Error>;

    /// Only for the rows that `plan` asked to inspect. The default lets the device sample them.
    fn pick(
        &mut self,
        view: &dyn View,
        logits: &mut dyn Logits,
        rows: &[u32],
        choices: &mut Choices,
    ) -> Result<(), Error> {
        let _ = (view, logits);
        choices.defer.extend_from_slice(rows);
        Ok(())
    }

    /// The engine did not apply the last answer: `why` names what was wrong with it.
    fn refused(&mut self, why: &Error) {
        let _ = why;
    }
}

/// The logits rows of the step in flight that belong to one policy. Columns have one entry per row; a
/// policy in WebAssembly pays for those that it reads.
pub trait View {
    /// Sequences, never reused.
    fn ids(&self) -> &[u64];
    /// Branches of one request share it.
    fn requests(&self) -> &[u64];
    /// Hash of the tenant, 0 if none. Not part of the WebAssembly contract: an instance serves one tenant.
    fn tenants(&self) -> &[u64];
    /// Of the token that the row decides, counted from the start of the prompt.
    fn positions(&self) -> &[u32];
    /// Output tokens of the branch so far.
    fn generated(&self) -> &[u32];
    /// Output tokens that the branch may still have, the one that the row decides included.
    fn remaining(&self) -> &[u32];
    /// Sum of the log-probabilities of the branch's output so far.
    fn scores(&self) -> &[f32];
    /// A random number per row, made of the request's seed and the position alone.
    fn seeds(&self) -> &[u64];
    /// Tokens accepted since this policy last saw the sequence; the first time all, the prompt included.
    fn accepted(&self) -> Ragged<'_>;
    /// Draft tokens that the row assumes after the accepted ones.
    fn assumed(&self) -> Ragged<'_>;
    /// Sequences that ended since the last call.
    fn finished(&self) -> &[u64];
    /// An argument of a row's request: the field `policy.args.<key>`, a string as it is, anything else as
    /// JSON.
    fn attribute(&self, row: usize, key: &str) -> Option<Cow<'_, str>>;
    /// Tokens that end the row's branch; none if only lengths do.
    fn stop_tokens(&self, row: usize) -> Cow<'_, [u32]>;
}

/// Lists of different lengths: list i is `values[starts[i]..starts[i + 1]]`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ragged<'a> {
    pub starts: &'a [u32],
    pub values: &'a [u32],
}

impl<'a> Ragged<'a> {
    pub fn get(&self, i: usize) -> &'a [u32] {
        &self.values[self.starts[i] as usize..self.starts[i + 1] as usize]
    }
}

/// A view made of slices. What is left out of the literal is empty.
#[derive(Clone, Copy, Default)]
pub struct Columns<'a> {
    pub ids: &'a [u64],
    pub requests: &'a [u64],
    pub tenants: &'a [u64],
    pub positions: &'a [u32],
    pub generated: &'a [u32],
    pub remaining: &'a [u32],
    pub scores: &'a [f32],
    pub seeds: &'a [u64],
    pub accepted: Ragged<'a>,
    pub assumed: Ragged<'a>,
    pub finished: &'a [u64],
    pub attributes: Option<&'a dyn Attributes>,
}

/// What requests say of themselves, by row.
pub trait Attributes {
    fn attribute(&self, row: usize, key: &str) -> Option<&str>;
    fn stop_tokens(&self, row: usize) -> Cow<'_, [u32]>;
}

impl View for Columns<'_> {
    fn ids(&self) -> &[u64] {
        self.ids
    }

    fn requests(&self) -> &[u64] {
        self.requests
    }

    fn tenants(&self) -> &[u64] {
        self.tenants
    }

    fn positions(&self) -> &[u32] {
        self.positions
    }

    fn generated(&self) -> &[u32] {
        self.generated
    }

    fn remaining(&self) -> &[u32] {
        self.remaining
    }

    fn scores(&self) -> &[f32] {
        self.scores
    }

    fn seeds(&self) -> &[u64] {
        self.seeds
    }

    fn accepted(&self) -> Ragged<'_> {
        self.accepted
    }

    fn assumed(&self) -> Ragged<'_> {
        self.assumed
    }

    fn finished(&self) -> &[u64] {
        self.finished
    }

    fn attribute(&self, row: usize, key: &str) -> Option<Cow<'_, str>> {
        self.attributes?.attribute(row, key).map(Cow::Borrowed)
    }

    fn stop_tokens(&self, row: usize) -> Cow<'_, [u32]> {
        self.attributes.map_or(Cow::Borrowed(&[]), |attributes| attributes.stop_tokens(row))
    }
}

/// Allowed tokens, one bit each: bit t % 32 of word t / 32, vocab bits. Cheap to clone, uploaded once per step.
pub type Mask = Arc<[u32]>;

/// Device parameters by row. Rows that are not named keep the request's own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Knobs {
    pub temperature: Vec<(u32, f32)>,
    pub top_k: Vec<(u32, u32)>,
    pub top_p: Vec<(u32, f32)>,
    pub min_p: Vec<(u32, f32)>,
    /// Row, token, value; added to the request's own biases.
    pub bias: Vec<(u32, u32, f32)>,
    pub allow: Vec<(u32, Mask)>,
    /// Rows to `pick` once their logits exist, which waits for the device.
    pub inspect: Vec<u32>,
    /// Fails the requests of these rows; the client is told why, with HTTP 400 if nothing was sent yet.
    pub refuse: Vec<(u32, String)>,
    /// Rows without a decision: for them it is as if `plan` had returned an error.
    pub undecided: Vec<u32>,
    /// Rows whose sequences the policy wants to be shown from the start the next time.
    pub again: Vec<u32>,
}

impl Knobs {
    pub fn clear(&mut self) {
        self.temperature.clear();
        self.top_k.clear();
        self.top_p.clear();
        self.min_p.clear();
        self.bias.clear();
        self.allow.clear();
        self.inspect.clear();
        self.refuse.clear();
        self.undecided.clear();
        self.again.clear();
    }
}

/// The logits of the step's rows, which stay where the backend keeps them.
pub trait Logits {
    fn vocab(&self) -> u32;
    /// The k largest, most likely first, with log-probabilities.
    fn top_k(&mut self, row: u32, k: u32) -> Result<(Vec<u32>, Vec<f32>), Error>;

    /// The k[i] largest of rows[i], as `top_k`; there are as many of one as of the other. A policy in WebAssembly asks
    /// the host once.
    fn batch_top_k(&mut self, rows: &[u32], k: &[u32]) -> Result<TopK, Error> {
        let (mut all, vocab) = (TopK::default(), self.vocab());
        let most = k.iter().map(|&k| k.min(vocab) as usize).sum();
        all.tokens.reserve(most);
        all.logprobs.reserve(most);
        for (&row, &k) in rows.iter().zip(k) {
            let (tokens, logprobs) = self.top_k(row, k)?;
            all.push(&tokens, &logprobs);
        }
        Ok(all)
    }

    /// All of a row, vocab values.
    fn read(&mut self, row: u32) -> Result<&[f32], Error>;

    /// The log-probabilities of some tokens.
    fn gather(&mut self, row: u32, tokens: &[u32]) -> Result<Vec<f32>, Error> {
        gather(self.read(row)?, tokens)
    }

    /// Of the row's distribution, in nats.
    fn entropy(&mut self, row: u32) -> Result<f32, Error> {
        let logits = self.read(row)?;
        let norm = log_sum_exp(logits);
        let term = |&logit: &f32| {
            if logit > f32::NEG_INFINITY { (logit - norm).exp() * (norm - logit) } else { 0.0 }
        };
        Ok(logits.iter().map(term).sum())
    }
}

/// The most likely tokens of several rows, with log-probabilities: those of the ith row are at
/// `starts[i]..starts[i + 1]`.
#[derive(Clone, Debug, PartialEq)]
pub struct TopK {
    pub starts: Vec<u32>,
    pub tokens: Vec<u32>,
    pub logprobs: Vec<f32>,
}

impl Default for TopK {
    fn default() -> Self {
        Self { starts: vec![0], tokens: Vec::new(), logprobs: Vec::new() }
    }
}

impl TopK {
    pub fn push(&mut self, tokens: &[u32], logprobs: &[f32]) {
        self.tokens.extend_from_slice(tokens);
        self.logprobs.extend_from_slice(logprobs);
        self.starts.push(self.tokens.len() as u32);
    }

    pub fn get(&self, i: usize) -> (&[u32], &[f32]) {
        let all = self.starts[i] as usize..self.starts[i + 1] as usize;
        (&self.tokens[all.clone()], &self.logprobs[all])
    }
}

/// The log-probabilities of some tokens of a row of logits.
pub fn gather(logits: &[f32], tokens: &[u32]) -> Result<Vec<f32>, Error> {
    let norm = log_sum_exp(logits);
    let unknown = || Error::Undecided("a token is outside the vocabulary".into());
    let one = |token: &u32| logits.get(*token as usize).map(|logit| logit - norm).ok_or_else(unknown);
    tokens.iter().map(one).collect()
}

/// log Σ exp, without overflow.
fn log_sum_exp(logits: &[f32]) -> f32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    max + logits.iter().map(|logit| (logit - max).exp()).sum::<f32>().ln()
}

/// What becomes of the inspected rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choices {
    /// Row and token. A row that is listed again forks its sequence, as far as the request may have more
    /// branches; one that is not listed in any column ends its branch, and its text is dropped.
    pub accept: Vec<(u32, u32)>,
    /// The device samples these rows after all, with their current knobs.
    pub defer: Vec<u32>,
    /// Ends these branches; their text so far stays.
    pub finish: Vec<u32>,
    /// Rows without a decision: for them it is as if `pick` had returned an error.
    pub undecided: Vec<u32>,
    /// As in [`Knobs`].
    pub again: Vec<u32>,
}

impl Choices {
    pub fn clear(&mut self) {
        self.accept.clear();
        self.defer.clear();
        self.finish.clear();
        self.undecided.clear();
        self.again.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct One(Vec<f32>);
    impl Logits for One {
        fn vocab(&self) -> u32 {
            self.0.len() as u32
        }

        fn top_k(&mut self, _: u32, _: u32) -> Result<(Vec<u32>, Vec<f32>), Error> {
            Ok((Vec::new(), Vec::new()))
        }

        fn read(&mut self, _: u32) -> Result<&[f32], Error> {
            Ok(&self.0)
        }
    }

    #[test]
    fn probabilities_and_entropy_follow_from_a_row() {
        // Probabilities 1/8, 1/8, 1/4, 1/2 and 0: an entropy of 1.75 bits.
        let mut row = One(vec![7.0, 7.0, 7.0 + 2f32.ln(), 7.0 + 4f32.ln(), f32::NEG_INFINITY]);
        let logprobs = row.gather(0, &[3, 0, 4]).unwrap_or_default();
        assert!((logprobs[0] + 2f32.ln()).abs() < 1e-6 && (logprobs[1] + 8f32.ln()).abs() < 1e-6);
        assert_eq!(logprobs[2], f32::NEG_INFINITY);
        assert!((row.entropy(0).unwrap_or_default() - 1.75 * 2f32.ln()).abs() < 1e-6);
        assert!(row.gather(0, &[5]).is_err());
    }
}
