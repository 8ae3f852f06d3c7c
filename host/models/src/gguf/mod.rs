//! Reads GGUF files (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>), version 2 and 3, little-endian.
//! Every count and offset is checked before it is used; nothing is allocated that the file's size does not back.
mod bytes;
pub(crate) mod dequantize;
mod quants_k;
mod value;

pub(crate) use value::Value;

use bytes::Bytes;
use dequantize::Quant;
use std::collections::{HashMap, HashSet};

const MAX_TENSORS: u64 = 65_536;
const MAX_KEYS: u64 = 65_536;
const MAX_DIMS: u32 = 4;

/// One tensor: `rows` are contiguous; the last of `shape` is the row length (Hugging Face's order, not ggml's).
#[derive(Debug)]
pub(crate) struct Tensor<'a> {
    pub(crate) name: &'a str,
    pub(crate) shape: Vec<usize>,
    pub(crate) quant: Quant,
    pub(crate) data: &'a [u8],
}

/// An opened file.
#[derive(Debug)]
pub(crate) struct Gguf<'a> {
    keys: HashMap<&'a str, Value<'a>>,
    pub(crate) tensors: Vec<Tensor<'a>>,
}

impl<'a> Gguf<'a> {
    pub(crate) fn parse(file: &'a [u8]) -> Result<Self, String> {
        let mut bytes = Bytes::new(file);
        if bytes.take(4)? != b"GGUF" {
            return Err("not a GGUF file".into());
        }
        let version = bytes.u32()?;
        if !(2..=3).contains(&version) {
            return Err(format!("GGUF version {version} is not supported"));
        }
        let (tensors, keys) = (bytes.u64()?, bytes.u64()?);
        if tensors > MAX_TENSORS || keys > MAX_KEYS {
            return Err(format!("{tensors} tensors and {keys} keys are more than a model has"));
        }
        let mut gguf = Gguf { keys: HashMap::new(), tensors: Vec::new() };
        for _ in 0..keys {
            let key = bytes.string()?;
            let value = Value::read(&mut bytes).map_err(|e| format!("{key}: {e}"))?;
            if gguf.keys.insert(key, value).is_some() {
                return Err(format!("key {key} is there twice"));
            }
        }
        let heads: Result<Vec<_>, String> = (0..tensors).map(|_| TensorHead::read(&mut bytes)).collect();
        let align = match gguf.keys.get("general.alignment") {
            None => 32,
            Some(v) => {
                v.u64().filter(|a| a.is_power_of_two() && *a <= 1 << 20).ok_or("bad general.alignment")?
            }
        };
        let start = (bytes.position() as u64).next_multiple_of(align) as usize;
        let data = file.get(start..).unwrap_or_default();
        let mut names = HashSet::new();
        for head in heads? {
            if !names.insert(head.name) {
                return Err(format!("tensor {} is there twice", head.name));
            }
            let name = head.name;
            gguf.tensors.push(head.locate(data, align).map_err(|e| format!("tensor {name}: {e}"))?);
        }
        Ok(gguf)
    }

    pub(crate) fn key(&self, key: &str) -> Option<&Value<'a>> {
        self.keys.get(key)
    }

    /// A key that must be there and convert; the error names it.
    pub(crate) fn need<'s, T>(
        &'s self,
        key: &str,
        get: impl Fn(&'s Value<'a>) -> Option<T>,
    ) -> Result<T, String> {
        let value = self.keys.get(key).ok_or_else(|| format!("key {key} is missing"))?;
        get(value).ok_or_else(|| format!("key {key} has the wrong type"))
    }
}

struct TensorHead<'a> {
    name: &'a str,
    shape: Vec<usize>,
    quant: Quant,
    offset: u64,
}

impl<'a> TensorHead<'a> {
    fn read(bytes: &mut Bytes<'a>) -> Result<Self, String> {
        let name = bytes.string()?;
        let dims = bytes.u32()?;
        if !(1..=MAX_DIMS).contains(&dims) {
            return Err(format!("tensor {name} has {dims} dimensions"));
        }
        let shape: Result<Vec<usize>, String> = (0..dims)
            .map(|_| usize::try_from(bytes.u64()?).map_err(|_| format!("tensor {name} is too large")))
            .collect();
        let mut shape = shape?;
        // ggml writes the fastest dimension first.
        shape.reverse();
        let quant = Quant::from_code(bytes.u32()?).map_err(|e| format!("tensor {name}: {e}"))?;
        Ok(TensorHead { name, shape, quant, offset: bytes.u64()? })
    }

    fn locate(self, data: &'a [u8], align: u64) -> Result<Tensor<'a>, String> {
        let count = self.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d).filter(|&n| n > 0));
        let count = count.ok_or("its size is zero or overflows")?;
        let row = self.shape.last().copied().unwrap_or_default();
        if row % self.quant.block() != 0 {
            return Err(format!("a row of {row} is no whole number of blocks of {}", self.quant.block()));
        }
        let size =
            (count / self.quant.block()).checked_mul(self.quant.bytes()).ok_or("its size overflows")?;
        if !self.offset.is_multiple_of(align) {
            return Err(format!("offset {} is not aligned to {align}", self.offset));
        }
        let start = usize::try_from(self.offset).map_err(|_| "its offset is beyond the file")?;
        let end = start.checked_add(size).ok_or("its end overflows")?;
        let data = data.get(start..end).ok_or("it reaches beyond the end of the file")?;
        Ok(Tensor { name: self.name, shape: self.shape, quant: self.quant, data })
    }
}

#[cfg(test)]
mod tests;
