//! Every operation on every path of this machine against the plain loops of `reference`.

mod attention;
mod linear;
mod ranks;
mod rows;
mod sampling;

use crate::buffer::Buffer;
use crate::device::Cpu;
use crate::paths::Paths;
use crate::stages::Stages;
use std::sync::Arc;
use tokenmill_backend_model::shard::Place;

/// A device on each path, with as many threads as given.
fn devices(threads: usize) -> Vec<(String, Cpu)> {
    let alone = || (Arc::new(Stages::new(1, 1)), Place::of(0, 1, 1));
    let device = |paths: Paths| {
        let (stages, place) = alone();
        (paths.name(), Cpu::new(stages, place, threads, paths))
    };
    Paths::available().into_iter().map(device).collect()
}

/// Reproducible numbers (Vigna's splitmix64).
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In -1..1.
    fn number(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn numbers(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.number()).collect()
    }

    /// In `low..=high`.
    fn size(&mut self, low: usize, high: usize) -> usize {
        low + (self.bits() % (high - low + 1) as u64) as usize
    }
}

fn filled(rows: usize, cols: usize, values: &[f32]) -> Buffer {
    let mut buffer = Buffer::new(rows, cols).unwrap();
    buffer.set_rows(rows);
    buffer.all_mut().copy_from_slice(values);
    buffer
}

fn assert_close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= tolerance * w.abs().max(1.0), "{what}: [{i}] is {g}, should be {w}");
    }
}
