//! Copies of whole blocks of the cache, in order.

use std::collections::HashMap;
use std::ops::Range;

use tokenmill_backend_model::error::Error;

use crate::buffer::Cache;
use crate::event::Event;
use crate::gpu::{Arg, Gpu, Grid};
use crate::memory::{Memory, Pinned};

/// Room for the pairs of a step. Each batch has its own, so that a step waits for no other.
pub struct Copies {
    device: Memory,
    staging: Pinned<u32>,
    /// Tells when the last copy out of `staging` ran.
    uploaded: Event,
    waves: Waves,
}

impl Copies {
    /// Room for `pairs`; a step with more makes room, and waits for the device to do so.
    pub fn new(gpu: &Gpu, pairs: usize) -> Result<Self, Error> {
        Ok(Self {
            device: gpu.alloc(8 * pairs)?,
            staging: gpu.pinned(2 * pairs)?,
            uploaded: gpu.event()?,
            waves: Waves::default(),
        })
    }

    /// Queues `pairs` of (from, to) on every layer of the cache, as if one after the other.
    pub fn run(&mut self, gpu: &Gpu, cache: &Cache, pairs: &[(u32, u32)]) -> Result<(), Error> {
        if pairs.is_empty() {
            return Ok(());
        }
        if 8 * pairs.len() > self.device.bytes() {
            *self = Self::new(gpu, pairs.len().next_power_of_two())?;
        }
        // Over at once unless a ticket was released while it ran.
        self.uploaded.wait()?;
        for (words, pair) in self.staging.as_mut_slice().chunks_exact_mut(2).zip(pairs) {
            words.copy_from_slice(&[pair.0, pair.1]);
        }
        gpu.queue_upload(self.device.ptr(), &self.staging, 2 * pairs.len())?;
        self.uploaded.record()?;
        let mut rest = 0..pairs.len();
        while let Some(wave) = self.waves.next(pairs, &mut rest) {
            launch(gpu, cache, self.device.ptr() + 8 * wave.start as u64, wave.len())?;
        }
        Ok(())
    }
}

fn launch(gpu: &Gpu, cache: &Cache, pairs: u64, n: usize) -> Result<(), Error> {
    let planes = 2 * cache.shape.layers;
    let grid = Grid { blocks: [n as u32, planes as u32, 1], threads: 256, shared: 0 };
    let args = [
        Arg::Ptr(cache.memory.ptr()),
        Arg::Ptr(pairs),
        Arg::U32(n as u32),
        Arg::U32(cache.shape.blocks as u32),
        Arg::U32(cache.block() as u32 / 4),
    ];
    gpu.launch("copy_blocks", grid, &args)
}

/// Splits pairs into runs whose order does not matter.
#[derive(Default)]
struct Waves {
    /// Blocks of the wave, and whether it writes them.
    touched: HashMap<u32, bool>,
}

impl Waves {
    /// The longest run at the start of `rest` in which no pair writes what another one touches.
    fn next(&mut self, pairs: &[(u32, u32)], rest: &mut Range<usize>) -> Option<Range<usize>> {
        self.touched.clear();
        let start = rest.start;
        for (from, to) in &pairs[rest.clone()] {
            if self.touched.contains_key(to) || self.touched.get(from) == Some(&true) {
                break;
            }
            self.touched.insert(*from, false);
            self.touched.insert(*to, true);
            rest.start += 1;
        }
        (start < rest.start).then_some(start..rest.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waves(pairs: &[(u32, u32)]) -> Vec<Range<usize>> {
        let (mut waves, mut rest) = (Waves::default(), 0..pairs.len());
        std::iter::from_fn(|| waves.next(pairs, &mut rest)).collect()
    }

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "one wave of several copies")]
    fn pairs_that_meet_are_split() {
        assert_eq!(waves(&[]), []);
        assert_eq!(waves(&[(0, 1), (0, 2), (3, 4)]), [0..3], "one source may be read twice");
        assert_eq!(waves(&[(0, 1), (1, 2)]), [0..1, 1..2], "read after write");
        assert_eq!(waves(&[(0, 1), (2, 0)]), [0..1, 1..2], "write after read");
        assert_eq!(waves(&[(0, 1), (2, 1)]), [0..1, 1..2], "written twice");
        assert_eq!(waves(&[(0, 1), (2, 3), (3, 4), (5, 6), (6, 2)]), [0..2, 2..4, 4..5]);
    }
}
