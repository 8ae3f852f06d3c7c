//! What an instance sees of a view: the rows of its tenant, and each token once.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use tokenmill_policy::sample::{Ragged, View};

/// Columns of a tenant's rows, kept for their memory.
#[derive(Default)]
pub(crate) struct Columns {
    ids: Vec<u64>,
    requests: Vec<u64>,
    tenants: Vec<u64>,
    positions: Vec<u32>,
    generated: Vec<u32>,
    remaining: Vec<u32>,
    scores: Vec<f32>,
    seeds: Vec<u64>,
    assumed: Lists,
    accepted: Lists,
    /// What was seen of each row's sequence until now.
    before: Vec<u32>,
    /// Whether `accepted` differs from that of the view.
    trimmed: bool,
}

#[derive(Default)]
struct Lists {
    starts: Vec<u32>,
    values: Vec<u32>,
}

impl Lists {
    fn clear(&mut self) {
        self.values.clear();
        self.starts.clear();
        self.starts.push(0);
    }

    fn push(&mut self, list: &[u32]) {
        self.values.extend_from_slice(list);
        self.starts.push(self.values.len() as u32);
    }

    fn as_ragged(&self) -> Ragged<'_> {
        Ragged { starts: &self.starts, values: &self.values }
    }
}

/// Sequences that an instance was shown, and up to which position.
pub(crate) type Seen = HashMap<u64, u32, BuildHasherDefault<Spread>>;

/// Fibonacci hashing (Knuth, The Art of Computer Programming 3, 6.4): each row of each step is looked up, and ids are
/// the engine's and count up, so that nobody can choose them to collide.
#[derive(Default)]
pub(crate) struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = (self.0.rotate_left(5) ^ id).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        // The table takes its place from the low bits, which a product leaves poor.
        self.0 ^ self.0 >> 32
    }
}

impl Columns {
    /// Prepares to show `rows` of a view (all if `all`) to an instance that has seen `seen`. False if it
    /// needs tokens that the view leaves out: a fresh instance, and a sequence in progress.
    pub(crate) fn fill(&mut self, view: &dyn View, rows: &[u32], all: bool, seen: &mut Seen) -> bool {
        self.accepted.clear();
        self.before.clear();
        self.trimmed = false;
        let (ids, positions) = (view.ids(), view.positions());
        let (accepted, assumed) = (view.accepted(), view.assumed());
        let mut complete = true;
        for &row in rows {
            let row = row as usize;
            let tokens = accepted.get(row);
            let end = positions[row].saturating_sub(assumed.get(row).len() as u32);
            let start = end.saturating_sub(tokens.len() as u32);
            let known = seen.insert(ids[row], end).unwrap_or(0);
            self.before.push(known);
            complete &= known >= start;
            let twice = (known.saturating_sub(start) as usize).min(tokens.len());
            self.trimmed |= twice > 0;
            self.accepted.push(&tokens[twice..]);
        }
        if !complete {
            // It is shown nothing now.
            for (&row, &known) in rows.iter().zip(&self.before) {
                seen.insert(ids[row as usize], known);
            }
        } else if !all {
            self.gather(view, rows);
        }
        complete
    }

    fn gather(&mut self, view: &dyn View, rows: &[u32]) {
        fn take<T: Copy>(into: &mut Vec<T>, from: &[T], rows: &[u32]) {
            into.clear();
            into.extend(rows.iter().map(|&row| from[row as usize]));
        }
        take(&mut self.ids, view.ids(), rows);
        take(&mut self.requests, view.requests(), rows);
        take(&mut self.tenants, view.tenants(), rows);
        take(&mut self.positions, view.positions(), rows);
        take(&mut self.generated, view.generated(), rows);
        take(&mut self.remaining, view.remaining(), rows);
        take(&mut self.scores, view.scores(), rows);
        take(&mut self.seeds, view.seeds(), rows);
        self.assumed.clear();
        rows.iter().for_each(|&row| self.assumed.push(view.assumed().get(row as usize)));
    }
}

/// Rows of one tenant as a view of their own.
pub(crate) struct Shown<'a> {
    pub(crate) view: &'a dyn View,
    pub(crate) columns: &'a Columns,
    /// None: all of the view.
    pub(crate) rows: Option<&'a [u32]>,
    pub(crate) finished: &'a [u64],
}

macro_rules! column {
    ($name:ident, $ty:ty) => {
        fn $name(&self) -> &[$ty] {
            if self.rows.is_none() { self.view.$name() } else { &self.columns.$name }
        }
    };
}

impl Shown<'_> {
    fn inner(&self, row: usize) -> usize {
        self.rows.map_or(row, |rows| rows[row] as usize)
    }
}

impl View for Shown<'_> {
    column!(ids, u64);
    column!(requests, u64);
    column!(tenants, u64);
    column!(positions, u32);
    column!(generated, u32);
    column!(remaining, u32);
    column!(scores, f32);
    column!(seeds, u64);

    fn accepted(&self) -> Ragged<'_> {
        if self.rows.is_none() && !self.columns.trimmed {
            return self.view.accepted();
        }
        self.columns.accepted.as_ragged()
    }

    fn assumed(&self) -> Ragged<'_> {
        if self.rows.is_none() { self.view.assumed() } else { self.columns.assumed.as_ragged() }
    }

    fn finished(&self) -> &[u64] {
        self.finished
    }

    fn attribute(&self, row: usize, key: &str) -> Option<Cow<'_, str>> {
        self.view.attribute(self.inner(row), key)
    }

    fn stop_tokens(&self, row: usize) -> Cow<'_, [u32]> {
        self.view.stop_tokens(self.inner(row))
    }
}
