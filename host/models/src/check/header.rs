//! The header of a safetensors file, read strictly: a cap on its size and on the number of tensors, no tensor
//! twice, sizes that multiply without overflow, and data that is covered exactly once.
use crate::ModelsError;
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};
use std::{collections::HashSet, fmt, fs::File, io::Read, path::Path};

/// The largest header read; that of a model with 65,536 tensors takes about 8 MiB.
pub(crate) const MAX_HEADER: u64 = 16 << 20;
pub(crate) const MAX_TENSORS: usize = 65_536;
const MAX_DIMS: usize = 8;

/// One tensor; `start..end` are bytes from [`Header::data_start`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) data_start: u64,
}

/// Reads and checks the header of a file that is known to be a regular file.
pub(crate) fn read(path: &Path) -> Result<Header, ModelsError> {
    let failed = |e: std::io::Error| ModelsError::file(path, e);
    let mut file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    parse(&mut file, size).map_err(|reason| ModelsError::file(path, reason))
}

fn parse(file: &mut impl Read, size: u64) -> Result<Header, String> {
    let mut len = [0; 8];
    file.read_exact(&mut len).map_err(|_| "is shorter than a safetensors header")?;
    let len = u64::from_le_bytes(len);
    if len > MAX_HEADER {
        return Err(format!("a header of {len} bytes is larger than {} MiB", MAX_HEADER >> 20));
    }
    let data = size.checked_sub(8 + len).ok_or("is shorter than its header says")?;
    let mut json = vec![0; len as usize];
    file.read_exact(&mut json).map_err(|_| "is shorter than its header says")?;
    let mut tensors = serde_json::from_slice::<Tensors>(&json).map_err(|e| format!("header: {e}"))?.0;
    for tensor in &tensors {
        check_size(tensor).map_err(|e| format!("tensor {}: {e}", tensor.name))?;
    }
    tensors.sort_by_key(|t| (t.start, t.end));
    let mut at = 0;
    for tensor in &tensors {
        if tensor.start != at {
            let what = if tensor.start < at { "overlaps the one before" } else { "leaves a hole before it" };
            return Err(format!("tensor {}: data_offsets: {what}", tensor.name));
        }
        at = tensor.end;
    }
    if at != data {
        return Err(format!("the tensors take {at} bytes, the file has {data}"));
    }
    Ok(Header { tensors, data_start: 8 + len })
}

fn check_size(tensor: &Tensor) -> Result<(), String> {
    if tensor.shape.len() > MAX_DIMS {
        return Err(format!("shape: {} dimensions are more than {MAX_DIMS}", tensor.shape.len()));
    }
    let count = tensor.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
    let count =
        count.filter(|&n| n > 0).ok_or_else(|| format!("shape {:?} is empty or overflows", tensor.shape))?;
    let size = match tensor.dtype.as_str() {
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => 1,
        "U16" | "I16" | "F16" | "BF16" => 2,
        "U32" | "I32" | "F32" => 4,
        "U64" | "I64" | "F64" => 8,
        other => return Err(format!("dtype {other:?} is unknown")),
    };
    let bytes = tensor.end.checked_sub(tensor.start).ok_or("data_offsets: end before start")?;
    if count.checked_mul(size) != Some(bytes) {
        return Err(format!("shape {:?} of {} does not take {bytes} bytes", tensor.shape, tensor.dtype));
    }
    Ok(())
}

/// The header's map. serde_json would keep the last of two equal keys; here they are an error.
struct Tensors(Vec<Tensor>);

impl<'de> Deserialize<'de> for Tensors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(TensorsVisitor)
    }
}

struct TensorsVisitor;

impl<'de> Visitor<'de> for TensorsVisitor {
    type Value = Tensors;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tensors, A::Error> {
        #[derive(Deserialize)]
        struct Info {
            dtype: String,
            shape: Vec<usize>,
            data_offsets: (u64, u64),
        }
        let (mut tensors, mut names) = (Vec::new(), HashSet::new());
        while let Some(name) = map.next_key::<String>()? {
            if !names.insert(name.clone()) {
                return Err(A::Error::custom(format!("{name:?} is there twice")));
            }
            if name == "__metadata__" {
                map.next_value::<std::collections::HashMap<String, String>>()?;
                continue;
            }
            if tensors.len() == MAX_TENSORS {
                return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
            let Info { dtype, shape, data_offsets: (start, end) } = map.next_value()?;
            tensors.push(Tensor { name, dtype, shape, start, end });
        }
        Ok(Tensors(tensors))
    }
}
