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

/// The parameters of the device.
#[derive(Default)]
struct Params {
    rows: Vec<u32>,
    temperature: Vec<f32>,
    top_k: Vec<u32>,
    top_p: Vec<f32>,
    min_p: Vec<f32>,
}

impl Params {
    /// In one call, if they are of the same rows, without these if they are all of the view's.
    fn send(&mut self, knobs: &Knobs, all: usize) {
        let Self { rows, temperature, top_k, top_p, min_p } = self;
        let Knobs { temperature: t, top_k: k, top_p: p, min_p: m, .. } = knobs;
        let mut sent = [t.is_empty(), k.is_empty(), p.is_empty(), m.is_empty()];
        while sent != [true; 4] {
            rows.clear();
            take(t, &mut sent[0], rows, temperature);
            take(k, &mut sent[1], rows, top_k);
            take(p, &mut sent[2], rows, top_p);
            take(m, &mut sent[3], rows, min_p);
            if rows.len() == all && rows.iter().zip(0..).all(|(row, nth)| *row == nth) {
                rows.clear();
            }
            wit::Knobs::params(rows, temperature, top_k, top_p, min_p);
        }
    }
}

/// The values of a column that was not sent, if it is of these rows; they are those of the first column that asks.
fn take<T: Copy>(column: &[(u32, T)], sent: &mut bool, rows: &mut Vec<u32>, values: &mut Vec<T>) {
    values.clear();
    if *sent {
        return;
    }
    if rows.is_empty() {
        rows.extend(column.iter().map(|(row, _)| row));
    } else if !column.iter().map(|(row, _)| row).eq(rows.iter()) {
        return;
    }
    values.extend(column.iter().map(|(_, value)| value));
    *sent = true;
}

/// Pairs as two columns.
fn split<T: Copy>(pairs: &[(u32, T)], rows: &mut Vec<u32>, values: &mut Vec<T>) {
    rows.clear();
    values.clear();
    rows.extend(pairs.iter().map(|(row, _)| row));
    values.extend(pairs.iter().map(|(_, value)| value));
}
