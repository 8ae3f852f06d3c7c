//! From a hash to the block that has it: open addressing, sized once.
//!
//! Hashes are told apart by 32 bits, so that a cache line holds eight places: of a million blocks some
//! hundred share a hash, and whoever finds a block compares its tokens anyway.

/// No block.
const EMPTY: u32 = u32::MAX;

/// Linear probing with backward shifts, so that nothing is left behind by a removal.
pub(crate) struct Index {
    /// Twice as many places as blocks at least, a power of two.
    places: Vec<Place>,
    len: usize,
}

#[derive(Clone, Copy)]
struct Place {
    hash: u32,
    block: u32,
}

impl Index {
    pub(crate) fn new(blocks: u32) -> Self {
        let places = (blocks as usize * 2).next_power_of_two().max(2);
        Self { places: vec![Place { hash: 0, block: EMPTY }; places], len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Asks the memory for the places of some hashes at the same time.
    pub(crate) fn prefetch<const N: usize>(&self, hashes: &[u64; N]) {
        let mask = self.places.len() - 1;
        std::hint::black_box(hashes.map(|hash| self.places[hash as usize & mask].hash));
    }

    pub(crate) fn find(&self, hash: u64) -> Option<u32> {
        let place = self.places[self.seek(hash)];
        (place.block != EMPTY).then_some(place.block)
    }

    /// The hash must not be there yet.
    pub(crate) fn insert(&mut self, hash: u64, block: u32) {
        let at = self.seek(hash);
        debug_assert_eq!(self.places[at].block, EMPTY);
        self.places[at] = Place { hash: hash as u32, block };
        self.len += 1;
    }

    pub(crate) fn remove(&mut self, hash: u64) {
        let mask = self.places.len() - 1;
        let mut hole = self.seek(hash);
        if self.places[hole].block == EMPTY {
            return;
        }
        self.len -= 1;
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let place = self.places[at];
            if place.block == EMPTY {
                break;
            }
            // Whoever would no longer be found from its home across the hole moves into it.
            let home = place.hash as usize & mask;
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                self.places[hole] = place;
                hole = at;
            }
        }
        self.places[hole].block = EMPTY;
    }

    /// Where the hash is, or where it would go.
    fn seek(&self, hash: u64) -> usize {
        let mask = self.places.len() - 1;
        let mut at = hash as usize & mask;
        while self.places[at].block != EMPTY && self.places[at].hash != hash as u32 {
            at = (at + 1) & mask;
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn finds_what_a_map_finds(operations in prop::collection::vec((any::<bool>(), 0..24u64), 0..200)) {
            let mut index = Index::new(16);
            let mut map = HashMap::new();
            for (block, (insert, hash)) in (0..).zip(operations) {
                // Few homes, so that runs form and wrap around.
                let hash = hash % 8 * 31 + hash / 8 * 32;
                if insert && map.len() < 16 && !map.contains_key(&hash) {
                    index.insert(hash, block);
                    map.insert(hash, block);
                } else if !insert {
                    index.remove(hash);
                    map.remove(&hash);
                }
                prop_assert_eq!(index.len(), map.len());
                for hash in 0..140 {
                    prop_assert_eq!(index.find(hash), map.get(&hash).copied());
                }
            }
        }
    }
}
