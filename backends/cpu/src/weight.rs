//! Weights in the layout the products read: panels of 16 outputs. A table of embeddings is one too, so that a tied
//! model keeps it once; its rows lie scattered over their panel, which costs far less than a product with the table.

use crate::memory::Slab;
use half::{bf16, f16};
use tokenmill_backend_model::device::{Dtype, Matrix};
use tokenmill_backend_model::error::Error;

/// Outputs of one panel.
pub(crate) const PANEL: usize = 16;
/// bf16 panels hold a multiple of this many inner elements, zeros at the end: one AMX tile.
pub(crate) const BF16_INNER: usize = 32;

/// A packed matrix `[out, inner]`; the last panel is filled up with zeros.
pub struct Weight {
    pub rows: usize,
    pub cols: usize,
    pub data: Packed,
}

pub enum Packed {
    /// `[panel][inner][16]`
    F32(Slab<f32>),
    /// `[panel][inner][16]`
    F16(Slab<u16>),
    /// `[panel][inner / 2][16][2]`
    Bf16(Slab<u16>),
}

/// Inner elements of a bf16 panel.
pub(crate) fn bf16_inner(cols: usize) -> usize {
    cols.next_multiple_of(BF16_INNER)
}

impl Weight {
    /// Stacks `parts` by rows. Parts of one element type keep it, others become f32.
    pub fn pack(parts: &[Matrix<'_>]) -> Result<Weight, Error> {
        let Some(first) = parts.first() else { return Err(Error::Invalid("a weight without parts".into())) };
        let cols = first.cols;
        if cols == 0 || parts.iter().any(|p| p.cols != cols) {
            return Err(Error::Invalid(format!("stacked weights differ in columns (first has {cols})")));
        }
        let rows = parts.iter().map(|p| p.rows).sum::<usize>();
        let same = parts.iter().all(|p| p.dtype == first.dtype);
        let panels = rows.div_ceil(PANEL);
        let mut data = match first.dtype {
            Dtype::Bf16 if same => Packed::Bf16(room(panels * PANEL * bf16_inner(cols))?),
            Dtype::F16 if same => Packed::F16(room(panels * PANEL * cols)?),
            _ => Packed::F32(room(panels * PANEL * cols)?),
        };
        let all = parts.iter().flat_map(|part| (0..part.rows).map(move |r| (part, r)));
        for (n, (part, r)) in all.enumerate() {
            let size = part.dtype.size();
            let row = part
                .bytes
                .get(r * part.stride * size..)
                .and_then(|b| b.get(..cols * size))
                .ok_or_else(|| Error::Invalid(format!("a weight of {rows} rows ends at row {n}")))?;
            place(&mut data, n, cols, row, part.dtype);
        }
        Ok(Weight { rows, cols, data })
    }

    /// `out = scale * weight[row]`.
    pub fn read_row(&self, row: usize, scale: f32, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols, "row {row} of {}", self.rows);
        let (panel, lane) = (row / PANEL, row % PANEL);
        let wide = |bits: u16| bf16::from_bits(bits).to_f32();
        match &self.data {
            Packed::F32(w) => {
                let panel = w[panel * PANEL * self.cols..].chunks_exact(PANEL);
                out.iter_mut().zip(panel).for_each(|(o, k)| *o = scale * k[lane]);
            }
            Packed::F16(w) => {
                let panel = w[panel * PANEL * self.cols..].chunks_exact(PANEL);
                out.iter_mut().zip(panel).for_each(|(o, k)| *o = scale * f16::from_bits(k[lane]).to_f32());
            }
            Packed::Bf16(w) => {
                let pairs = w[panel * PANEL * bf16_inner(self.cols)..].chunks_exact(2 * PANEL);
                for (out, pair) in out.chunks_mut(2).zip(pairs) {
                    out.iter_mut().zip(&pair[2 * lane..]).for_each(|(o, bits)| *o = scale * wide(*bits));
                }
            }
        }
    }

    pub fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL)
    }

    /// Bytes of one panel.
    pub fn panel_bytes(&self) -> usize {
        match &self.data {
            Packed::F32(_) => self.cols * PANEL * 4,
            Packed::F16(_) => self.cols * PANEL * 2,
            Packed::Bf16(_) => bf16_inner(self.cols) * PANEL * 2,
        }
    }
}

fn room<T: crate::memory::Plain>(len: usize) -> Result<Slab<T>, Error> {
    Slab::try_zeroed(len).ok_or_else(|| Error::NoMemory(format!("no memory for a weight of {len} elements")))
}

/// Writes row `n` of the packed matrix.
fn place(data: &mut Packed, n: usize, cols: usize, row: &[u8], dtype: Dtype) {
    let (panel, lane) = (n / PANEL, n % PANEL);
    let half = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
    match data {
        Packed::F32(w) => {
            let panel = &mut w[panel * PANEL * cols..];
            let values = row.chunks_exact(dtype.size()).map(|b| match dtype {
                Dtype::F32 => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
                Dtype::F16 => f16::from_bits(half(b)).to_f32(),
                Dtype::Bf16 => bf16::from_bits(half(b)).to_f32(),
            });
            for (to, value) in panel.chunks_exact_mut(PANEL).zip(values) {
                to[lane] = value;
            }
        }
        Packed::F16(w) => {
            let panel = &mut w[panel * PANEL * cols..];
            for (to, b) in panel.chunks_exact_mut(PANEL).zip(row.chunks_exact(2)) {
                to[lane] = half(b);
            }
        }
        Packed::Bf16(w) => {
            let panel = &mut w[panel * PANEL * bf16_inner(cols)..];
            for (to, pair) in panel.chunks_exact_mut(2 * PANEL).zip(row.chunks(4)) {
                for (to, b) in to[2 * lane..].iter_mut().zip(pair.chunks_exact(2)) {
                    *to = half(b);
                }
            }
        }
    }
}
