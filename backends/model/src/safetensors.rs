//! Headers of safetensors files: the `safetensors` crate reads them, limits of our own come first.
//!
//! The crate checks that tensors cover the file without hole or overlap and that sizes agree with
//! shapes. It accepts duplicate names, empty dimensions and headers of 100 MB; we do not.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use safetensors::SafeTensors;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::error::Error;

pub const MAX_HEADER: usize = 16 << 20;
pub const MAX_TENSORS: usize = 65_536;
const MAX_DIMENSIONS: usize = 8;

/// One tensor of a file.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: String,
    pub dtype: safetensors::Dtype,
    pub shape: Vec<usize>,
    /// Bytes of the file.
    pub range: Range<usize>,
}

/// The tensors of a file, in no particular order. `name` is the file's, for messages.
pub fn entries(name: &str, file: &[u8]) -> Result<Vec<Entry>, Error> {
    let invalid = |what: String| Error::Invalid(format!("{name}: {what}"));
    check_names(header(file).map_err(invalid)?).map_err(invalid)?;
    let (header_len, metadata) =
        SafeTensors::read_metadata(file).map_err(|e| invalid(format!("not a safetensors file: {e}")))?;
    let data = 8 + header_len;
    let entry = |(name, info): (String, &safetensors::tensor::TensorInfo)| {
        check_shape(&name, &info.shape).map_err(invalid)?;
        let (start, end) = info.data_offsets;
        Ok(Entry { name, dtype: info.dtype, shape: info.shape.clone(), range: data + start..data + end })
    };
    metadata.tensors().into_iter().map(entry).collect()
}

/// The JSON header, at most `MAX_HEADER` bytes.
fn header(file: &[u8]) -> Result<&[u8], String> {
    let Some((len, rest)) = file.split_first_chunk::<8>() else {
        return Err(format!("has {} bytes, too few for a safetensors file", file.len()));
    };
    let len = u64::from_le_bytes(*len);
    match usize::try_from(len).ok().filter(|len| *len <= MAX_HEADER) {
        Some(len) => rest.get(..len).ok_or_else(|| format!("ends within its header of {len} bytes")),
        None => Err(format!("states a header of {len} bytes; at most {MAX_HEADER} are accepted")),
    }
}

fn check_shape(name: &str, shape: &[usize]) -> Result<(), String> {
    if shape.len() > MAX_DIMENSIONS {
        return Err(format!("{name} has {} dimensions; at most {MAX_DIMENSIONS} are accepted", shape.len()));
    }
    if shape.contains(&0) {
        return Err(format!("{name} has an empty dimension: {shape:?}"));
    }
    Ok(())
}

/// Refuses duplicate names, and stops reading at `MAX_TENSORS`.
fn check_names(header: &[u8]) -> Result<(), String> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of tensors")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            let mut names = HashSet::new();
            while let Some(name) = map.next_key::<String>()? {
                if names.len() > MAX_TENSORS {
                    return Err(A::Error::custom(format_args!("more than {MAX_TENSORS} tensors")));
                }
                map.next_value::<IgnoredAny>()?;
                if let Some(twice) = names.replace(name) {
                    return Err(A::Error::custom(format_args!("{twice} appears twice")));
                }
            }
            Ok(())
        }
    }
    let mut json = serde_json::Deserializer::from_slice(header);
    json.deserialize_map(Names).map_err(|e| format!("bad header: {e}"))
}
