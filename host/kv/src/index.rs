//! From a hash to the block that has it: open addressing, sized once.
//!
//! The low bits of a hash say where its place is, the high 32 are kept there, so that a cache line holds
//! eight places. Whoever finds a block compares its tokens.

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
    /// The high half of the hash.
    tag: u32,
    block: u32,
}

impl Index {
    pub(crate) fn new(blocks: u32) -> Self {
        let places = (blocks as usize * 2).next_power_of_two().max(2);
        Self { places: vec![Place { tag: 0, block: EMPTY }; places], len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Asks the memory for the places of some hashes at the same time.
    pub(crate) fn prefetch<const N: usize>(&self, hashes: &[u64; N]) {
        let mask = self.places.len() - 1;
        std::hint::black_box(hashes.map(|hash| self.places[hash as usize & mask].tag));
    }

    pub(crate) fn find(&self, hash: u64) -> Option<u32> {
        let place = self.places[self.seek(hash, |place| place.tag == tag(hash))];
        (place.block != EMPTY).then_some(place.block)
    }

    /// The hash must not be there yet.
    pub(crate) fn insert(&mut self, hash: u64, block: u32) {
        let at = self.seek(hash, |_| false);
        self.places[at] = Place { tag: tag(hash), block };
        self.len += 1;
    }

    /// Forgets a block; `hash_of` gives the hash of any block that is in the index.
    pub(crate) fn remove(&mut self, block: u32, hash_of: impl Fn(u32) -> u64) {
        let mask = self.places.len() - 1;
        let mut hole = self.seek(hash_of(block), |place| place.block == block);
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
            let home = hash_of(place.block) as usize & mask;
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                self.places[hole] = place;
                hole = at;
            }
        }
        self.places[hole].block = EMPTY;
    }

    /// The first place from a hash's own on that is the one, or empty.
    fn seek(&self, hash: u64, is: impl Fn(&Place) -> bool) -> usize {
        let mask = self.places.len() - 1;
        let mut at = hash as usize & mask;
        while self.places[at].block != EMPTY && !is(&self.places[at]) {
            at = (at + 1) & mask;
        }
        at
    }
}

fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// Told apart by both halves.
    fn wide(hash: u64) -> u64 {
        hash << 32 | hash
    }

    proptest! {
        #[test]
        fn finds_what_a_map_finds(operations in prop::collection::vec((any::<bool>(), 0..24u64), 0..200)) {
            let mut index = Index::new(16);
            let mut map = HashMap::new();
            let mut hashes = Vec::new();
            for (block, (insert, hash)) in (0..).zip(operations) {
                // Few homes, so that runs form and wrap around.
                let hash = wide(hash % 8 * 31 + hash / 8 * 32);
                hashes.push(hash);
                if insert && map.len() < 16 && !map.contains_key(&hash) {
                    index.insert(hash, block);
                    map.insert(hash, block);
                } else if !insert && let Some(block) = map.remove(&hash) {
                    index.remove(block, |block| hashes[block as usize]);
                }
                prop_assert_eq!(index.len(), map.len());
                for hash in (0..140).map(wide) {
                    prop_assert_eq!(index.find(hash), map.get(&hash).copied());
                }
            }
        }
    }
}
