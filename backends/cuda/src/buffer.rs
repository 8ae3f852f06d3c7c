//! What operations work on: activations, weights, vectors, rotary tables, the KV cache.

use tokenmill_backend_model::device::{CacheShape, Dtype};

use crate::memory::Memory;

/// Row-major `[rows, cols]` of `dtype`, with room for `capacity` rows.
pub struct Buffer {
    pub memory: Memory,
    pub dtype: Dtype,
    pub capacity: usize,
    pub cols: usize,
    rows: usize,
}

impl Buffer {
    pub fn new(memory: Memory, dtype: Dtype, capacity: usize, cols: usize) -> Self {
        assert!(memory.bytes() >= capacity * cols * dtype.size(), "a buffer without its memory");
        Self { memory, dtype, capacity, cols, rows: 0 }
    }

    pub fn ptr(&self) -> u64 {
        self.memory.ptr()
    }

    /// Address of a row.
    pub fn row(&self, row: usize) -> u64 {
        self.ptr() + (row * self.cols * self.dtype.size()) as u64
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn set_rows(&mut self, rows: usize) {
        assert!(rows <= self.capacity, "{rows} rows in a buffer of {}", self.capacity);
        self.rows = rows;
    }
}

/// Row-major `[rows, cols]`: a linear layer's `[out, in]`, or a table of embeddings.
pub struct Weight {
    pub memory: Memory,
    pub dtype: Dtype,
    pub rows: usize,
    pub cols: usize,
}

/// `len` f32.
pub struct Vector {
    pub memory: Memory,
    pub len: usize,
}

/// Cosines and sines, f32 `[positions, half]` each.
pub struct Rope {
    pub cos: Memory,
    pub sin: Memory,
    pub half: usize,
}

/// Keys and values of all layers: `[layer][keys, values][block][kv head][token of the block][dim]`.
pub struct Cache {
    pub memory: Memory,
    pub shape: CacheShape,
}

impl Cache {
    /// Bytes of the keys, or of the values, of one layer.
    pub fn plane(&self) -> usize {
        self.block() * self.shape.blocks
    }

    /// Bytes of the keys, or of the values, of one block in one layer.
    pub fn block(&self) -> usize {
        self.shape.block_bytes() / (2 * self.shape.layers)
    }

    /// Address of a layer's keys.
    pub fn keys(&self, layer: usize) -> u64 {
        self.memory.ptr() + (2 * layer * self.plane()) as u64
    }

    /// Address of a layer's values.
    pub fn values(&self, layer: usize) -> u64 {
        self.keys(layer) + self.plane() as u64
    }
}
