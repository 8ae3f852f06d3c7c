//! Rows of token embeddings, as stored.

use crate::memory::Slab;
use half::{bf16, f16};
use tokenmill_backend_model::device::{Dtype, Matrix};
use tokenmill_backend_model::error::Error;

pub struct Embedding {
    pub rows: usize,
    pub cols: usize,
    data: Table,
}

enum Table {
    F32(Slab<f32>),
    F16(Slab<u16>),
    Bf16(Slab<u16>),
}

impl Embedding {
    pub fn new(table: &Matrix<'_>) -> Result<Embedding, Error> {
        let Matrix { rows, cols, .. } = *table;
        let len = rows * cols;
        let none = || Error::NoMemory(format!("no memory for {rows} x {cols} embeddings"));
        let short = || Error::Invalid(format!("embeddings hold fewer than {rows} x {cols} elements"));
        let size = table.dtype.size();
        let row = |r: usize| {
            let bytes = table.bytes.get(r * table.stride * size..).and_then(|b| b.get(..cols * size));
            bytes.ok_or_else(short)
        };
        let halves = || -> Result<Slab<u16>, Error> {
            let mut data = Slab::try_zeroed(len).ok_or_else(none)?;
            for (r, to) in data.chunks_exact_mut(cols).enumerate() {
                let from = row(r)?.chunks_exact(2);
                to.iter_mut().zip(from).for_each(|(to, b)| *to = u16::from_le_bytes([b[0], b[1]]));
            }
            Ok(data)
        };
        let data = match table.dtype {
            Dtype::F16 => Table::F16(halves()?),
            Dtype::Bf16 => Table::Bf16(halves()?),
            Dtype::F32 => {
                let mut data = Slab::try_zeroed(len).ok_or_else(none)?;
                for (r, to) in data.chunks_exact_mut(cols).enumerate() {
                    let from = row(r)?.chunks_exact(4);
                    let values = from.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                    to.iter_mut().zip(values).for_each(|(to, value)| *to = value);
                }
                Table::F32(data)
            }
        };
        Ok(Embedding { rows, cols, data })
    }

    /// `out = scale * row`.
    pub fn read(&self, row: usize, scale: f32, out: &mut [f32]) {
        let range = row * self.cols..(row + 1) * self.cols;
        match &self.data {
            Table::F32(t) => out.iter_mut().zip(&t[range]).for_each(|(o, v)| *o = scale * v),
            Table::F16(t) => {
                out.iter_mut().zip(&t[range]).for_each(|(o, v)| *o = scale * f16::from_bits(*v).to_f32())
            }
            Table::Bf16(t) => {
                out.iter_mut().zip(&t[range]).for_each(|(o, v)| *o = scale * bf16::from_bits(*v).to_f32())
            }
        }
    }
}
