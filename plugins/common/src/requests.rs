use std::collections::BTreeMap;

use crate::Sequences;

/// What a sampler knows of requests, by id: kept until the last of a request's sequences that were seen has
/// ended.
pub struct Requests<T> {
    known: BTreeMap<u64, Known<T>>,
    /// The request of each sequence.
    of: Sequences<u64>,
}

struct Known<T> {
    what: T,
    sequences: usize,
}

impl<T> Default for Requests<T> {
    fn default() -> Self {
        Self { known: BTreeMap::new(), of: Sequences::default() }
    }
}

impl<T> Requests<T> {
    /// What is known of a sequence's request, made by `first` if it is new. Goes before [`Requests::forget`]:
    /// of a request that forked, the sequence that was seen may end as the others begin.
    pub fn get(&mut self, request: u64, sequence: u64, first: impl FnOnce() -> T) -> &mut T {
        let known = self.known.entry(request).or_insert_with(|| Known { what: first(), sequences: 0 });
        self.of.get(sequence, || {
            known.sequences += 1;
            request
        });
        &mut known.what
    }

    /// What is known of a request, if anything.
    pub fn find(&mut self, request: u64) -> Option<&mut T> {
        Some(&mut self.known.get_mut(&request)?.what)
    }

    /// `finished` is the column of that name.
    pub fn forget(&mut self, finished: &[u64]) {
        for &sequence in finished {
            let Some(request) = self.of.remove(sequence) else { continue };
            let Some(known) = self.known.get_mut(&request) else { continue };
            known.sequences -= 1;
            if known.sequences == 0 {
                self.known.remove(&request);
            }
        }
    }

    pub fn len(&self) -> usize {
        self.known.len()
    }

    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_forgotten_with_its_last_sequence() {
        let mut counts = Requests::default();
        for (request, sequence) in [(1, 10), (2, 20), (1, 11), (1, 10)] {
            *counts.get(request, sequence, || 0) += 1;
        }
        assert_eq!((counts.find(1).copied(), counts.find(2).copied()), (Some(3), Some(1)));
        counts.forget(&[10, 20, 99]);
        assert_eq!((counts.find(1).copied(), counts.find(2).copied(), counts.len()), (Some(3), None, 1));
        counts.forget(&[11, 11]);
        assert!(counts.is_empty());
    }
}
