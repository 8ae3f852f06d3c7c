//! An input, read from its start by all who take part. Zeros follow its end.

use std::sync::{Arc, Mutex, PoisonError};

#[derive(Clone)]
pub(crate) struct Bytes(Arc<Mutex<(Vec<u8>, usize)>>);

/// Values at the edges of what a parameter may be.
const EDGES: [f32; 12] = [
    0.0,
    0.5,
    1.0,
    2.0,
    -1.0,
    -0.0,
    f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::MIN_POSITIVE,
    f32::MAX,
    1e-44,
];

impl Bytes {
    pub(crate) fn new(input: &[u8]) -> Self {
        Self(Arc::new(Mutex::new((input.to_vec(), 0))))
    }

    pub(crate) fn at_end(&self) -> bool {
        let read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        read.1 >= read.0.len()
    }

    pub(crate) fn byte(&self) -> u8 {
        let mut read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        read.1 += 1;
        read.0.get(read.1 - 1).copied().unwrap_or(0)
    }

    /// Below `end`, which is at most 256.
    pub(crate) fn below(&self, end: usize) -> u32 {
        u32::from(self.byte()) % end.max(1) as u32
    }

    pub(crate) fn yes(&self) -> bool {
        self.byte() % 2 == 1
    }

    pub(crate) fn word(&self) -> u32 {
        u32::from_le_bytes([(); 4].map(|()| self.byte()))
    }

    /// One of `len` things, or now and then one that is not there.
    pub(crate) fn index(&self, len: usize) -> u32 {
        match self.byte() {
            255 => self.word(),
            byte => u32::from(byte) % len.max(1) as u32,
        }
    }

    /// An edge, or any bits.
    pub(crate) fn float(&self) -> f32 {
        match self.byte() {
            255 => f32::from_bits(self.word()),
            byte => EDGES[usize::from(byte) % EDGES.len()],
        }
    }
}
