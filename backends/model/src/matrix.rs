//! Views and element conversion of stored matrices.

use std::borrow::Cow;
use std::ops::Range;

use half::{bf16, f16};

use crate::device::{Dtype, Matrix};

impl<'a> Matrix<'a> {
    /// Rows `range`, which must lie within.
    pub fn row_range(self, range: Range<usize>) -> Self {
        let start = range.start * self.stride * self.dtype.size();
        Self { rows: range.len(), bytes: &self.bytes[start..], ..self }
    }

    /// Columns `range`, which must lie within.
    pub fn column_range(self, range: Range<usize>) -> Self {
        let start = range.start * self.dtype.size();
        Self { cols: range.len(), bytes: &self.bytes[start..], ..self }
    }

    /// Bytes of the elements themselves.
    pub fn size(&self) -> usize {
        self.rows * self.cols * self.dtype.size()
    }

    /// The elements row by row, without gaps, as `dtype`.
    fn converted(&self, dtype: Dtype) -> Vec<u8> {
        let size = self.dtype.size();
        let mut out = Vec::with_capacity(self.rows * self.cols * dtype.size());
        for row in 0..self.rows {
            let start = row * self.stride * size;
            let row = &self.bytes[start..start + self.cols * size];
            for element in row.chunks_exact(size) {
                write(dtype, read(self.dtype, element), &mut out);
            }
        }
        out
    }
}

/// A matrix, in the caller's element type.
pub(crate) struct Stored<'a> {
    bytes: Cow<'a, [u8]>,
    view: Matrix<'a>,
}

impl<'a> Stored<'a> {
    /// `None` keeps the stored element type and copies nothing.
    pub(crate) fn new(view: Matrix<'a>, dtype: Option<Dtype>) -> Self {
        match dtype.filter(|dtype| *dtype != view.dtype) {
            None => Self { bytes: Cow::Borrowed(view.bytes), view },
            Some(dtype) => Self {
                bytes: Cow::Owned(view.converted(dtype)),
                view: Matrix { dtype, stride: view.cols, bytes: &[], ..view },
            },
        }
    }

    pub(crate) fn matrix(&self) -> Matrix<'_> {
        Matrix { bytes: &self.bytes, ..self.view }
    }
}

/// One little-endian element as f32: exact.
pub(crate) fn read(dtype: Dtype, element: &[u8]) -> f32 {
    match (dtype, element) {
        (Dtype::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
        (Dtype::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
        (Dtype::Bf16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f32(),
        // Elements are cut by the size of their type.
        _ => f32::NAN,
    }
}

/// Rounds to nearest even.
fn write(dtype: Dtype, value: f32, out: &mut Vec<u8>) {
    match dtype {
        Dtype::F32 => out.extend(value.to_le_bytes()),
        Dtype::F16 => out.extend(f16::from_f32(value).to_le_bytes()),
        Dtype::Bf16 => out.extend(bf16::from_f32(value).to_le_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_views_and_conversion_packs_them() {
        let bytes: Vec<u8> = (0..12).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let whole = Matrix { dtype: Dtype::F32, rows: 3, cols: 4, stride: 4, bytes: &bytes };
        let part = whole.row_range(1..3).column_range(1..3);
        assert_eq!((part.rows, part.cols, part.stride), (2, 2, 4));
        let stored = Stored::new(part, Some(Dtype::Bf16));
        let packed = stored.matrix();
        assert_eq!((packed.stride, packed.bytes.len()), (2, 8));
        let values: Vec<f32> = packed.bytes.chunks_exact(2).map(|e| read(Dtype::Bf16, e)).collect();
        assert_eq!(values, [5.0, 6.0, 9.0, 10.0]);
    }
}
