//! Answers about a part of a view's rows, as answers about the view.

use tokenmill_policy::Error;
use tokenmill_policy::sample::{Choices, Knobs, Logits};

/// Rows of a view that an instance was shown; None: all.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a>(Option<&'a [u32]>);

impl<'a> Part<'a> {
    pub(crate) fn of(rows: &'a [u32], all: bool) -> Self {
        Self((!all).then_some(rows))
    }

    /// The view's number of a row that was checked.
    fn row(self, row: u32) -> u32 {
        self.0.map_or(row, |rows| rows[row as usize])
    }
}

pub(crate) fn add_knobs(to: &mut Knobs, from: &mut Knobs, part: Part<'_>) {
    let at = |row| part.row(row);
    to.temperature.extend(from.temperature.drain(..).map(|(row, value)| (at(row), value)));
    to.top_k.extend(from.top_k.drain(..).map(|(row, value)| (at(row), value)));
    to.top_p.extend(from.top_p.drain(..).map(|(row, value)| (at(row), value)));
    to.min_p.extend(from.min_p.drain(..).map(|(row, value)| (at(row), value)));
    to.bias.extend(from.bias.drain(..).map(|(row, token, value)| (at(row), token, value)));
    to.allow.extend(from.allow.drain(..).map(|(row, mask)| (at(row), mask)));
    to.inspect.extend(from.inspect.drain(..).map(at));
    to.refuse.extend(from.refuse.drain(..).map(|(row, why)| (at(row), why)));
}

pub(crate) fn add_choices(to: &mut Choices, from: &mut Choices, part: Part<'_>) {
    let at = |row| part.row(row);
    to.accept.extend(from.accept.drain(..).map(|(row, token)| (at(row), token)));
    to.defer.extend(from.defer.drain(..).map(at));
    to.finish.extend(from.finish.drain(..).map(at));
}

/// The logits of a part of the rows.
pub(crate) struct PartLogits<'a> {
    pub(crate) logits: &'a mut dyn Logits,
    pub(crate) part: Part<'a>,
}

impl Logits for PartLogits<'_> {
    fn vocab(&self) -> u32 {
        self.logits.vocab()
    }

    fn top_k(&mut self, row: u32, k: u32) -> Result<(Vec<u32>, Vec<f32>), Error> {
        self.logits.top_k(self.part.row(row), k)
    }

    fn read(&mut self, row: u32) -> Result<&[f32], Error> {
        self.logits.read(self.part.row(row))
    }

    fn gather(&mut self, row: u32, tokens: &[u32]) -> Result<Vec<f32>, Error> {
        self.logits.gather(self.part.row(row), tokens)
    }

    fn entropy(&mut self, row: u32) -> Result<f32, Error> {
        self.logits.entropy(self.part.row(row))
    }
}
