//! Range-checked reading of a JSON object: every error names the key.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::error::Error;

/// A JSON object and where it stands, for messages.
pub(crate) struct Fields {
    map: Map<String, Value>,
    at: String,
}

impl Fields {
    pub(crate) fn new(map: Map<String, Value>, at: &str) -> Self {
        Self { map, at: at.to_owned() }
    }

    /// Fills keys that are missing or null.
    pub(crate) fn or_defaults(mut self, defaults: Value) -> Self {
        if let Value::Object(defaults) = defaults {
            for (key, value) in defaults {
                let slot = self.map.entry(key).or_insert(Value::Null);
                if slot.is_null() {
                    *slot = value;
                }
            }
        }
        self
    }

    /// Null counts as absent, as in Hugging Face configurations.
    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    pub(crate) fn error(&self, key: &str, what: impl std::fmt::Display) -> Error {
        Error::Invalid(format!("{}: {key} {what}", self.at))
    }

    pub(crate) fn count_opt(&self, key: &str, range: RangeInclusive<usize>) -> Result<Option<usize>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        // Some exporters write 4096.0.
        let number = value.as_u64().or_else(|| {
            value.as_f64().filter(|f| f.fract() == 0.0 && (0.0..9e15).contains(f)).map(|f| f as u64)
        });
        let number = number.and_then(|n| usize::try_from(n).ok());
        let wanted = || format!("is {value}, not a whole number of {} to {}", range.start(), range.end());
        number.filter(|n| range.contains(n)).map(Some).ok_or_else(|| self.error(key, wanted()))
    }

    pub(crate) fn count(&self, key: &str, range: RangeInclusive<usize>) -> Result<usize, Error> {
        self.count_opt(key, range)?.ok_or_else(|| self.error(key, "is missing"))
    }

    pub(crate) fn float_opt(&self, key: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wanted = || format!("is {value}, not a number of {:e} to {:e}", range.start(), range.end());
        value.as_f64().filter(|f| range.contains(f)).map(Some).ok_or_else(|| self.error(key, wanted()))
    }

    pub(crate) fn float(&self, key: &str, range: RangeInclusive<f64>) -> Result<f64, Error> {
        self.float_opt(key, range)?.ok_or_else(|| self.error(key, "is missing"))
    }

    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool, Error> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.error(key, format!("is {value}, not true or false")))
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.error(key, format!("is {value}, not a string")))
    }

    pub(crate) fn object(&self, key: &str) -> Result<Option<Fields>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Fields::new(map.clone(), &format!("{}: {key}", self.at)))),
            Some(other) => Err(self.error(key, format!("is {other}, not an object"))),
        }
    }

    fn list(&self, key: &str) -> Result<Option<&[Value]>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(other) => Err(self.error(key, format!("is {other}, not a list"))),
        }
    }

    pub(crate) fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, Error> {
        let Some(list) = self.list(key)? else { return Ok(None) };
        let texts: Option<Vec<_>> = list.iter().map(Value::as_str).collect();
        texts.map(Some).ok_or_else(|| self.error(key, "is not a list of strings"))
    }

    /// Exactly `len` numbers within `range`.
    pub(crate) fn floats(
        &self,
        key: &str,
        len: usize,
        range: RangeInclusive<f64>,
    ) -> Result<Vec<f64>, Error> {
        let list = self.list(key)?.ok_or_else(|| self.error(key, "is missing"))?;
        if list.len() != len {
            return Err(self.error(key, format!("has {} numbers, not {len}", list.len())));
        }
        let floats: Option<Vec<_>> = list.iter().map(|v| v.as_f64().filter(|f| range.contains(f))).collect();
        floats.ok_or_else(|| {
            self.error(
                key,
                format!("holds something else than numbers of {:e} to {:e}", range.start(), range.end()),
            )
        })
    }
}
