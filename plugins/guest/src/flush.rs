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
        let sent = self.params.send(knobs, rows);
        let Self { rows, floats, ints, masks, .. } = self;
        let columns: [(&[(u32, f32)], bool, &dyn Fn(&[u32], &[f32])); 3] = [
            (&knobs.temperature, sent[0], &|rows, values| out.temperature(rows, values)),
            (&knobs.top_p, sent[2], &|rows, values| out.top_p(rows, values)),
            (&knobs.min_p, sent[3], &|rows, values| out.min_p(rows, values)),
        ];
        for (column, sent, set) in columns {
            if !column.is_empty() && !sent {
                split(column, rows, floats);
                set(rows, floats);
            }
        }
        if !knobs.top_k.is_empty() && !sent[1] {
            split(&knobs.top_k, rows, ints);
            out.top_k(rows, ints);
        }
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
    /// Which of them were sent.
    fn send(&mut self, knobs: &Knobs, rows: usize) -> [bool; 4] {
        let Self { temperature, top_k, top_p, min_p } = self;
        let sent = [
            take(&knobs.temperature, rows, temperature),
            take(&knobs.top_k, rows, top_k),
            take(&knobs.top_p, rows, top_p),
            take(&knobs.min_p, rows, min_p),
        ];
        if sent != [false; 4] {
            wit::Knobs::params(temperature, top_k, top_p, min_p);
        }
        sent
    }
}

/// The values of a column that names all rows in order; otherwise there are none.
fn take<T: Copy>(column: &[(u32, T)], rows: usize, values: &mut Vec<T>) -> bool {
    values.clear();
    // Without a way out early, so that it becomes vector instructions.
    let in_order = |all, ((row, _), nth): (&(u32, T), u32)| all & (*row == nth);
    let whole = column.len() == rows && column.iter().zip(0..).fold(true, in_order);
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
