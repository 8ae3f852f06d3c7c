//! A request body as named fields: each is read with its type and range, or refused by name.
//!
//! Values stay raw text until they are asked for, so that a hostile body costs no more memory than its bytes.
//! `null` is the same as a missing field everywhere.

use crate::error::ApiError;
use crate::json;
use crate::limits::Limits;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::fmt;

const MAX_FIELDS: usize = 512;

/// The top-level members of a JSON object.
pub(crate) struct Fields<'a> {
    members: HashMap<String, &'a RawValue>,
}

/// A whole number and where it may lie, both ends included.
#[derive(Clone, Copy)]
pub(crate) struct Int {
    pub(crate) name: &'static str,
    pub(crate) min: i64,
    pub(crate) max: i64,
}

/// A number and where it may lie, both ends included.
#[derive(Clone, Copy)]
pub(crate) struct Float {
    pub(crate) name: &'static str,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl<'a> Fields<'a> {
    pub(crate) fn parse(body: &'a [u8], limits: &Limits) -> Result<Self, ApiError> {
        if json::measure(body, limits.json_depth).depth > limits.json_depth {
            return Err(ApiError::malformed(format!(
                "the body nests deeper than {} levels",
                limits.json_depth
            )));
        }
        serde_json::from_slice(body)
            .map_err(|e| ApiError::malformed(format!("the body is not a JSON object: {e}")))
    }

    /// The field's text, unless it is missing or null.
    pub(crate) fn raw(&self, name: &str) -> Option<&'a RawValue> {
        self.members.get(name).copied().filter(|raw| raw.get() != "null")
    }

    /// The field as any type; `expected` completes "must be …".
    pub(crate) fn get<T: Deserialize<'a>>(&self, name: &str, expected: &str) -> Result<Option<T>, ApiError> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        match serde_json::from_str(raw.get()) {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(ApiError::invalid(name, format!("`{name}` must be {expected}"))),
        }
    }

    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        self.get(name, "true or false")
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<String>, ApiError> {
        self.get(name, "a string")
    }

    pub(crate) fn int(&self, int: Int) -> Result<Option<i64>, ApiError> {
        let Some(raw) = self.raw(int.name) else { return Ok(None) };
        match whole(raw.get()).filter(|value| (int.min..=int.max).contains(value)) {
            Some(value) => Ok(Some(value)),
            None => {
                let Int { name, min, max } = int;
                Err(ApiError::invalid(name, format!("`{name}` must be a whole number from {min} to {max}")))
            }
        }
    }

    pub(crate) fn float(&self, float: Float) -> Result<Option<f32>, ApiError> {
        let Some(raw) = self.raw(float.name) else { return Ok(None) };
        let value: Option<f64> = serde_json::from_str(raw.get()).ok();
        match value.filter(|value| (float.min..=float.max).contains(value)) {
            Some(value) => Ok(Some(value as f32)),
            None => {
                let Float { name, min, max } = float;
                Err(ApiError::invalid(name, format!("`{name}` must be a number from {min} to {max}")))
            }
        }
    }

    /// Refuses the fields of `table` that are present with another value than the ones that mean "off".
    pub(crate) fn refuse(&self, table: &[(&'static str, &[&str])]) -> Result<(), ApiError> {
        for (name, off) in table {
            if let Some(raw) = self.raw(name)
                && !off.contains(&raw.get())
            {
                return Err(ApiError::unsupported(name));
            }
        }
        Ok(())
    }
}

/// `7`, `-7` or `7.0`: the spellings of a whole number that clients send.
fn whole(text: &str) -> Option<i64> {
    if let Ok(value) = text.parse() {
        return Some(value);
    }
    let value: f64 = serde_json::from_str(text).ok()?;
    let exact = value.fract() == 0.0 && value.abs() < (1u64 << 53) as f64;
    exact.then_some(value as i64)
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = HashMap<String, &'de RawValue>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = HashMap::new();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    if members.insert(name, value).is_some() {
                        return Err(A::Error::custom("a field is given twice"));
                    }
                    if members.len() > MAX_FIELDS {
                        return Err(A::Error::custom("too many fields"));
                    }
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Members).map(|members| Self { members })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn int(text: &str) -> Result<Option<i64>, ApiError> {
        let body = format!(r#"{{"x": {text}}}"#);
        let fields = Fields::parse(body.as_bytes(), &Limits::default())?;
        fields.int(Int { name: "x", min: 0, max: 10 })
    }

    #[test]
    fn a_number_is_in_range_or_named() {
        for (text, value) in [("0", 0), ("10", 10), ("7.0", 7), ("1e1", 10), ("-0", 0)] {
            assert_eq!(int(text).unwrap(), Some(value), "{text}");
        }
        assert_eq!(int("null").unwrap(), None);
        for text in [
            "-1",
            "11",
            "2147483648",
            "9223372036854775808",
            "1e308",
            "\"NaN\"",
            "0.1",
            "\"1\"",
            "[]",
            "{}",
            "true",
        ] {
            assert_eq!(int(text).unwrap_err().param.as_deref(), Some("x"), "{text}");
        }
    }

    #[test]
    fn bodies_that_are_no_object_are_refused() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for body in [
            "",
            "{",
            "[]",
            "1",
            "{} x",
            "\u{feff}{}",
            r#"{"a":1,"a":2}"#,
            r#"{"a":NaN}"#,
            &format!(r#"{{"a":{deep}}}"#),
            &deep,
        ] {
            assert!(Fields::parse(body.as_bytes(), &Limits::default()).is_err());
        }
        assert!(Fields::parse(b"{\"a\":\"\xff\"}", &Limits::default()).is_err());
    }
}
