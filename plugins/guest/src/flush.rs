//! Answers become calls of the host: one for each column that is not empty.

use tokenmill_policy::sample::{Choices, Knobs};

use crate::{bindings::sampling as wit, masks::Masks};

/// Columns on their way, kept for their memory, and the masks that the host knows.
#[derive(Default)]
pub(crate) struct Flush {
    rows: Vec<u32>,
    floats: Vec<f32>,
    ints: Vec<u32>,
    params: Params,
    masks: Masks,
}

impl Flush {
    /// Of a view of so many rows. Takes the masks out of `knobs`, so that only the policy's own references keep them.
    pub(crate) fn knobs(&mut self, knobs: &mut Knobs, rows: usize, out: &wit::Knobs) {
        self.params.send(knobs, rows);
        self.columns(knobs, rows, out);
        let Self { floats, ints, masks, .. } = self;
        for of_row in knobs.bias.chunk_by(|one, next| one.0 == next.0) {
            ints.clear();
            floats.clear();
            ints.extend(of_row.iter().map(|(_, token, _)| token));
            floats.extend(of_row.iter().map(|(_, _, value)| value));
            out.bias(of_row[0].0, ints, floats);
        }
        for (row, mask) in knobs.allow.drain(..) {
            out.allow(row, masks.known(mask));
        }
        masks.drop_unused();
        if !knobs.inspect.is_empty() {
            out.inspect(&knobs.inspect);
        }
        for (row, why) in &knobs.refuse {
            out.refuse(*row, why);
        }
    }

    /// The parameters that are not of all rows.
    fn columns(&mut self, knobs: &Knobs, all: usize, out: &wit::Knobs) {
        let Self { rows, floats, ints, .. } = self;
        let columns: [(&[(u32, f32)], &dyn Fn(&[u32], &[f32])); 3] = [
            (&knobs.temperature, &|rows, values| out.temperature(rows, values)),
            (&knobs.top_p, &|rows, values| out.top_p(rows, values)),
            (&knobs.min_p, &|rows, values| out.min_p(rows, values)),
        ];
        for (column, set) in columns {
            if !column.is_empty() && !whole(column, all) {
                split(column, rows, floats);
                set(rows, floats);
            }
        }
        if !knobs.top_k.is_empty() && !whole(&knobs.top_k, all) {
            split(&knobs.top_k, rows, ints);
            out.top_k(rows, ints);
        }
    }

    pub(crate) fn choices(&mut self, choices: &Choices, out: &wit::Choices) {
        if !choices.accept.is_empty() {
            split(&choices.accept, &mut self.rows, &mut self.ints);
            out.accept(&self.rows, &self.ints);
        }
        if !choices.defer.is_empty() {
            out.defer(&choices.defer);
        }
        if !choices.finish.is_empty() {
            out.finish(&choices.finish);
        }
    }
}

/// The parameters of all rows.
#[derive(Default)]
struct Params {
    temperature: Vec<f32>,
    top_k: Vec<u32>,
    top_p: Vec<f32>,
    min_p: Vec<f32>,
}

impl Params {
    fn send(&mut self, knobs: &Knobs, rows: usize) {
        let Self { temperature, top_k, top_p, min_p } = self;
        let any = take(&knobs.temperature, rows, temperature)
            | take(&knobs.top_k, rows, top_k)
            | take(&knobs.top_p, rows, top_p)
            | take(&knobs.min_p, rows, min_p);
        if any {
            wit::Knobs::params(temperature, top_k, top_p, min_p);
        }
    }
}

/// Whether a column names all of so many rows, in order.
fn whole<T>(column: &[(u32, T)], rows: usize) -> bool {
    column.len() == rows && column.iter().zip(0..).all(|((row, _), nth)| *row == nth)
}

/// The values of a column of all rows; otherwise there are none.
fn take<T: Copy>(column: &[(u32, T)], rows: usize, values: &mut Vec<T>) -> bool {
    values.clear();
    let whole = whole(column, rows);
    if whole {
        values.extend(column.iter().map(|(_, value)| value));
    }
    whole
}

/// Pairs as two columns.
fn split<T: Copy>(pairs: &[(u32, T)], rows: &mut Vec<u32>, values: &mut Vec<T>) {
    rows.clear();
    values.clear();
    rows.extend(pairs.iter().map(|(row, _)| row));
    values.extend(pairs.iter().map(|(_, value)| value));
}
