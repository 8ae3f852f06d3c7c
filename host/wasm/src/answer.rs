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

    /// Moves entries, whose `row` becomes the view's.
    fn add<T>(self, to: &mut Vec<T>, from: &mut Vec<T>, row: impl Fn(&mut T) -> &mut u32) {
        if self.0.is_some() {
            from.iter_mut().map(row).for_each(|row| *row = self.row(*row));
        }
        to.append(from);
    }
}

pub(crate) fn add_knobs(to: &mut Knobs, from: &mut Knobs, part: Part<'_>) {
    part.add(&mut to.temperature, &mut from.temperature, |knob| &mut knob.0);
    part.add(&mut to.top_k, &mut from.top_k, |knob| &mut knob.0);
    part.add(&mut to.top_p, &mut from.top_p, |knob| &mut knob.0);
    part.add(&mut to.min_p, &mut from.min_p, |knob| &mut knob.0);
    part.add(&mut to.bias, &mut from.bias, |knob| &mut knob.0);
    part.add(&mut to.allow, &mut from.allow, |knob| &mut knob.0);
    part.add(&mut to.inspect, &mut from.inspect, |row| row);
    part.add(&mut to.refuse, &mut from.refuse, |knob| &mut knob.0);
}

pub(crate) fn add_choices(to: &mut Choices, from: &mut Choices, part: Part<'_>) {
    part.add(&mut to.accept, &mut from.accept, |choice| &mut choice.0);
    part.add(&mut to.defer, &mut from.defer, |row| row);
    part.add(&mut to.finish, &mut from.finish, |row| row);
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
