//! Activations: `[rows, cols]` f32, with room for a fixed number of rows.

use crate::memory::Slab;
use tokenmill_backend_model::error::Error;

pub struct Buffer {
    pub cols: usize,
    rows: usize,
    data: Slab<f32>,
}

impl Buffer {
    pub fn new(capacity: usize, cols: usize) -> Result<Buffer, Error> {
        let none = || Error::NoMemory(format!("no memory for activations of {capacity} x {cols}"));
        let data = capacity.checked_mul(cols).and_then(Slab::try_zeroed).ok_or_else(none)?;
        Ok(Buffer { cols, rows: 0, data })
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn set_rows(&mut self, rows: usize) {
        assert!(rows * self.cols <= self.data.len(), "{rows} rows do not fit their buffer");
        self.rows = rows;
    }

    pub fn all(&self) -> &[f32] {
        &self.data[..self.rows * self.cols]
    }

    pub fn all_mut(&mut self) -> &mut [f32] {
        &mut self.data[..self.rows * self.cols]
    }

    pub fn row(&self, row: usize) -> &[f32] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        &self.data[row * self.cols..][..self.cols]
    }
}
