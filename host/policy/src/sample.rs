//! How the rows of a step become tokens.

use std::sync::Arc;

use crate::{Attributes, Error};

/// Sets sampling parameters, and picks tokens where that is not enough.
pub trait Sampler: Send {
    /// Once per step for all rows of this policy, while the forward pass runs.
    fn plan(&mut self, view: &View<'_>, knobs: &mut Knobs) -> Result<(), Error>;

    /// Only for the rows that `plan` asked to inspect.
    fn pick(
        &mut self,
        view: &View<'_>,
        logits: &mut dyn Logits,
        rows: &[u32],
        choices: &mut Choices,
    ) -> Result<(), Error>;
}

/// The logits rows of the step in flight that belong to one policy. Columns have one entry per row.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// Sequences; branches of one request share `requests`.
    pub ids: &'a [u64],
    pub requests: &'a [u64],
    /// Of the token that the row decides.
    pub positions: &'a [u32],
    /// Sum of the log-probabilities of the branch's output so far.
    pub scores: &'a [f32],
    /// Tokens accepted since this policy last saw the sequence; the first time all, the prompt included.
    pub accepted: Ragged<'a>,
    /// Draft tokens that the row assumes after the accepted ones.
    pub assumed: Ragged<'a>,
    pub finished: &'a [u64],
    pub attributes: &'a dyn Attributes,
}

/// Lists of different lengths: list i is `values[starts[i]..starts[i + 1]]`.
#[derive(Clone, Copy, Debug)]
pub struct Ragged<'a> {
    pub starts: &'a [u32],
    pub values: &'a [u32],
}

impl<'a> Ragged<'a> {
    pub fn get(&self, i: usize) -> &'a [u32] {
        &self.values[self.starts[i] as usize..self.starts[i + 1] as usize]
    }
}

/// Allowed tokens, one bit each: bit t % 32 of word t / 32. Cheap to clone, uploaded once per step.
pub type Mask = Arc<[u32]>;

/// Device parameters by row. Rows that are not named keep the request's own.
#[derive(Clone, Debug, Default)]
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
    }
}

/// The logits of the inspected rows, which stay where the backend keeps them.
pub trait Logits {
    fn vocab(&self) -> u32;
    /// The k largest, with log-probabilities.
    fn top_k(&mut self, row: u32, k: u32) -> Result<(Vec<u32>, Vec<f32>), Error>;
    /// All of a row, vocab values.
    fn read(&mut self, row: u32) -> Result<&[f32], Error>;
}

/// What becomes of the inspected rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choices {
    /// Row and token. A row that is listed twice forks its sequence, as far as the request may have more
    /// branches (today it never may: the first token counts); one that is not listed in any column ends
    /// its branch.
    pub accept: Vec<(u32, u32)>,
    /// The device samples these rows after all, with their current knobs.
    pub defer: Vec<u32>,
    pub finish: Vec<u32>,
}

impl Choices {
    pub fn clear(&mut self) {
        self.accept.clear();
        self.defer.clear();
        self.finish.clear();
    }
}
