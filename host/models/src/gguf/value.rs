//! Values of GGUF's key-value section.
use super::bytes::Bytes;

/// How deep arrays of arrays may go.
const MAX_DEPTH: usize = 4;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value<'a> {
    Unsigned(u64),
    Signed(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(&'a str),
    Array(Vec<Value<'a>>),
}

impl<'a> Value<'a> {
    pub(super) fn read(bytes: &mut Bytes<'a>) -> Result<Self, String> {
        let code = bytes.u32()?;
        Self::read_as(bytes, code, 0)
    }

    fn read_as(bytes: &mut Bytes<'a>, code: u32, depth: usize) -> Result<Self, String> {
        Ok(match code {
            0 => Value::Unsigned(u8::from_le_bytes(bytes.array()?).into()),
            1 => Value::Signed(i8::from_le_bytes(bytes.array()?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(bytes.array()?).into()),
            3 => Value::Signed(i16::from_le_bytes(bytes.array()?).into()),
            4 => Value::Unsigned(bytes.u32()?.into()),
            5 => Value::Signed(i32::from_le_bytes(bytes.array()?).into()),
            6 => Value::F32(f32::from_le_bytes(bytes.array()?)),
            7 => Value::Bool(bytes.array::<1>()? != [0]),
            8 => Value::String(bytes.string()?),
            9 => Self::read_array(bytes, depth)?,
            10 => Value::Unsigned(bytes.u64()?),
            11 => Value::Signed(i64::from_le_bytes(bytes.array()?)),
            12 => Value::F64(f64::from_le_bytes(bytes.array()?)),
            _ => return Err(format!("value type {code} does not exist")),
        })
    }

    fn read_array(bytes: &mut Bytes<'a>, depth: usize) -> Result<Self, String> {
        if depth >= MAX_DEPTH {
            return Err("arrays nest too deep".into());
        }
        let (code, count) = (bytes.u32()?, bytes.u64()?);
        // Every element takes at least one byte, so a count beyond what is left is a lie.
        if count > bytes.left() as u64 {
            return Err(format!("an array of {count} elements in the {} bytes left", bytes.left()));
        }
        (0..count).map(|_| Self::read_as(bytes, code, depth + 1)).collect::<Result<_, _>>().map(Value::Array)
    }

    pub(crate) fn u64(&self) -> Option<u64> {
        match *self {
            Value::Unsigned(x) => Some(x),
            Value::Signed(x) => x.try_into().ok(),
            _ => None,
        }
    }

    /// A number as the shortest decimal that reads back to it: 1e-5 stored in f32 is 1e-5, not 9.99999974e-6.
    pub(crate) fn f64(&self) -> Option<f64> {
        match *self {
            Value::F32(x) => x.to_string().parse().ok(),
            Value::F64(x) => Some(x),
            _ => None,
        }
    }

    pub(crate) fn bool(&self) -> Option<bool> {
        match *self {
            Value::Bool(x) => Some(x),
            _ => None,
        }
    }

    pub(crate) fn str(&self) -> Option<&'a str> {
        match *self {
            Value::String(x) => Some(x),
            _ => None,
        }
    }

    pub(crate) fn array(&self) -> Option<&[Value<'a>]> {
        match self {
            Value::Array(x) => Some(x),
            _ => None,
        }
    }

    pub(crate) fn strings(&self) -> Option<Vec<&'a str>> {
        self.array()?.iter().map(Value::str).collect()
    }
}
