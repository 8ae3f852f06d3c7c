//! Number formats a model's weights are stored in.
use half::{bf16, f16};
use std::{fmt, str::FromStr};

/// The format of the weights of a cached model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub enum Dtype {
    F16,
    #[default]
    Bf16,
    F32,
}

impl Dtype {
    pub const ALL: [Dtype; 3] = [Dtype::Bf16, Dtype::F16, Dtype::F32];

    /// Bytes of one number.
    pub fn size(self) -> usize {
        if self == Dtype::F32 { 4 } else { 2 }
    }

    /// As safetensors spells it.
    pub(crate) fn safetensors(self) -> &'static str {
        match self {
            Dtype::F16 => "F16",
            Dtype::Bf16 => "BF16",
            Dtype::F32 => "F32",
        }
    }

    /// As config.json spells it (`torch_dtype`).
    pub(crate) fn torch(self) -> &'static str {
        match self {
            Dtype::F16 => "float16",
            Dtype::Bf16 => "bfloat16",
            Dtype::F32 => "float32",
        }
    }

    /// Appends `values` as little-endian bytes, rounded to nearest, ties to even. A finite value that would become
    /// infinite is an error: f16 ends at 65504, and one infinity makes every answer of a model NaN.
    pub(crate) fn encode(self, values: &[f32], out: &mut Vec<u8>) -> Result<(), String> {
        let lost = |x: &&f32| match self {
            Dtype::F16 => x.is_finite() && f16::from_f32(**x).is_infinite(),
            Dtype::Bf16 => x.is_finite() && bf16::from_f32(**x).is_infinite(),
            Dtype::F32 => false,
        };
        if let Some(x) = values.iter().find(lost) {
            return Err(format!("{x:e} is too large for {self}"));
        }
        match self {
            Dtype::F16 => values.iter().for_each(|&x| out.extend(f16::from_f32(x).to_le_bytes())),
            Dtype::Bf16 => values.iter().for_each(|&x| out.extend(bf16::from_f32(x).to_le_bytes())),
            Dtype::F32 => values.iter().for_each(|x| out.extend(x.to_le_bytes())),
        }
        Ok(())
    }

    /// Reads little-endian bytes back.
    pub(crate) fn decode(self, bytes: &[u8], out: &mut Vec<f32>) {
        let halves = || bytes.as_chunks::<2>().0.iter();
        match self {
            Dtype::F16 => out.extend(halves().map(|&b| f16::from_le_bytes(b).to_f32())),
            Dtype::Bf16 => out.extend(halves().map(|&b| bf16::from_le_bytes(b).to_f32())),
            Dtype::F32 => out.extend(bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b))),
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
            Dtype::F32 => "f32",
        })
    }
}

impl FromStr for Dtype {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f16" | "float16" | "half" => Ok(Dtype::F16),
            "bf16" | "bfloat16" => Ok(Dtype::Bf16),
            "f32" | "float32" | "float" => Ok(Dtype::F32),
            _ => Err(format!("{text:?} is not one of f16, bf16, f32")),
        }
    }
}
