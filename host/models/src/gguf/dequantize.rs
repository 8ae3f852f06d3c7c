//! Number formats of GGUF tensors, widened to f32. Layouts from ggml's `ggml-common.h`, arithmetic from
//! `ggml-quants.c` (`dequantize_row_*`), whose results these equal bit for bit.
use super::quants_k;
use half::{bf16, f16};

/// A tensor format. Quantized ones pack `block()` numbers of a row into `bytes()` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quant {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

impl Quant {
    /// From ggml's type number.
    pub(crate) fn from_code(code: u32) -> Result<Self, String> {
        Ok(match code {
            0 => Quant::F32,
            1 => Quant::F16,
            2 => Quant::Q4_0,
            3 => Quant::Q4_1,
            6 => Quant::Q5_0,
            8 => Quant::Q8_0,
            12 => Quant::Q4K,
            13 => Quant::Q5K,
            14 => Quant::Q6K,
            30 => Quant::Bf16,
            _ => return Err(format!("ggml type {code} is not supported")),
        })
    }

    /// Numbers per block.
    pub(crate) fn block(self) -> usize {
        match self {
            Quant::F32 | Quant::F16 | Quant::Bf16 => 1,
            Quant::Q4_0 | Quant::Q4_1 | Quant::Q5_0 | Quant::Q8_0 => 32,
            Quant::Q4K | Quant::Q5K | Quant::Q6K => 256,
        }
    }

    /// Bytes per block.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Quant::F32 => 4,
            Quant::F16 | Quant::Bf16 => 2,
            Quant::Q4_0 => 18,
            Quant::Q4_1 => 20,
            Quant::Q5_0 => 22,
            Quant::Q8_0 => 34,
            Quant::Q4K => 144,
            Quant::Q5K => 176,
            Quant::Q6K => 210,
        }
    }

    /// Appends the numbers of whole blocks; a broken last block is left out.
    pub(crate) fn dequantize(self, data: &[u8], out: &mut Vec<f32>) {
        out.reserve(data.len() / self.bytes() * self.block());
        for block in data.chunks_exact(self.bytes()) {
            match self {
                Quant::F32 => out.push(f32::from_le_bytes([block[0], block[1], block[2], block[3]])),
                Quant::F16 => out.push(half(block)),
                Quant::Bf16 => out.push(bf16::from_le_bytes([block[0], block[1]]).to_f32()),
                Quant::Q4_0 => q4_0(block, out),
                Quant::Q4_1 => q4_1(block, out),
                Quant::Q5_0 => q5_0(block, out),
                Quant::Q8_0 => out.extend(block[2..].iter().map(|&q| f32::from(q as i8) * half(block))),
                Quant::Q4K => quants_k::q4_k(block, out),
                Quant::Q5K => quants_k::q5_k(block, out),
                Quant::Q6K => quants_k::q6_k(block, out),
            }
        }
    }
}

/// The f16 at the start of `bytes`.
pub(super) fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// Scale, then 32 nibbles: the low halves are numbers 0 to 15, the high halves 16 to 31.
fn q4_0(block: &[u8], out: &mut Vec<f32>) {
    let (d, q) = (half(block), &block[2..]);
    let value = |nibble: u8| (f32::from(nibble) - 8.0) * d;
    out.extend(q.iter().map(|&b| value(b & 15)));
    out.extend(q.iter().map(|&b| value(b >> 4)));
}

/// Scale, minimum, nibbles.
fn q4_1(block: &[u8], out: &mut Vec<f32>) {
    let (d, m, q) = (half(block), half(&block[2..]), &block[4..]);
    let value = |nibble: u8| f32::from(nibble) * d + m;
    out.extend(q.iter().map(|&b| value(b & 15)));
    out.extend(q.iter().map(|&b| value(b >> 4)));
}

/// Scale, 32 fifth bits, nibbles.
fn q5_0(block: &[u8], out: &mut Vec<f32>) {
    let (d, q) = (half(block), &block[6..]);
    let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    let value = |nibble: u8, bit: usize| (f32::from(nibble | ((high >> bit & 1) << 4) as u8) - 16.0) * d;
    out.extend(q.iter().enumerate().map(|(j, &b)| value(b & 15, j)));
    out.extend(q.iter().enumerate().map(|(j, &b)| value(b >> 4, j + 16)));
}
