use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// What a sampler knows of sequences, by id. Steps do not list every sequence, so it is kept until the host says that
/// one has finished.
pub struct Sequences<T> {
    known: Numbers<u64, T>,
}

impl<T> Default for Sequences<T> {
    fn default() -> Self {
        Self { known: HashMap::default() }
    }
}

impl<T> Sequences<T> {
    /// What is known of `id`, made by `first` if it is new.
    pub fn get(&mut self, id: u64, first: impl FnOnce() -> T) -> &mut T {
        self.known.entry(id).or_insert_with(first)
    }

    /// What is known of `id`, if anything.
    pub fn find(&mut self, id: u64) -> Option<&mut T> {
        self.known.get_mut(&id)
    }

    pub fn remove(&mut self, id: u64) -> Option<T> {
        self.known.remove(&id)
    }

    /// `finished` is the column of that name.
    pub fn forget(&mut self, finished: &[u64]) {
        for id in finished {
            self.known.remove(id);
        }
    }

    pub fn len(&self) -> usize {
        self.known.len()
    }

    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

/// A map of ids or tokens, which is several times as fast as one whose keys anybody may choose: ids are the host's and
/// count up, and there are not enough tokens that many could collide.
pub type Numbers<K, T> = HashMap<K, T, BuildHasherDefault<Spread>>;

/// Fibonacci hashing (Knuth, The Art of Computer Programming 3, 6.4).
#[derive(Default)]
pub struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, token: u32) {
        self.write_u64(u64::from(token));
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = (self.0.rotate_left(5) ^ id).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        // The table takes its place from the low bits, which a product leaves poor.
        self.0 ^ self.0 >> 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_finished_is_forgotten() {
        let mut counts = Sequences::default();
        for id in [3, 4, 3] {
            *counts.get(id, || 0) += 1;
        }
        assert_eq!((counts.find(3).copied(), counts.len()), (Some(2), 2));
        counts.forget(&[3, 9]);
        assert_eq!((counts.find(3).copied(), counts.remove(4)), (None, Some(1)));
        assert!(counts.is_empty());
    }
}
