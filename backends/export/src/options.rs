//! The `options` of a load call: lines `key=value`.

use tokenmill_backend_model::device::Dtype;
use tokenmill_backend_model::error::Error;

/// Options that every platform shares, and the platform's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Weights are converted at load; `None` = as stored.
    pub dtype: Option<Dtype>,
    /// `None` = bf16 for half-precision weights, else f32.
    pub kv_dtype: Option<Dtype>,
    /// Positions to serve, at most what the model was made for; `None` = all of them.
    pub context: Option<usize>,
    own: Vec<(String, String)>,
}

impl Options {
    /// Reads the lines; keys outside the shared ones and `own` are refused.
    pub fn parse(text: &str, own: &[&str]) -> Result<Self, Error> {
        let mut options = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let Some((key, value)) = line.split_once('=').map(|(k, v)| (k.trim(), v.trim())) else {
                return Err(Error::Invalid(format!("options: {line:?} is not key=value")));
            };
            match key {
                "dtype" => options.dtype = dtype(key, value, &[Dtype::F32, Dtype::F16, Dtype::Bf16])?,
                "kv_dtype" => options.kv_dtype = dtype(key, value, &[Dtype::F32, Dtype::Bf16])?,
                "context" => options.context = Some(number(key, value, 1, 1 << 24)?),
                _ if own.contains(&key) => options.own.push((key.to_owned(), value.to_owned())),
                _ => {
                    let known =
                        ["dtype", "kv_dtype", "context"].iter().chain(own).copied().collect::<Vec<_>>();
                    return Err(Error::Invalid(format!(
                        "options: unknown key {key:?}; known are {}",
                        known.join(", ")
                    )));
                }
            }
        }
        Ok(options)
    }

    /// The last value of one of the platform's own keys.
    pub fn own(&self, key: &str) -> Option<&str> {
        self.own.iter().rev().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// A whole number among the platform's own keys.
    pub fn own_number(&self, key: &str, min: usize, max: usize) -> Result<Option<usize>, Error> {
        self.own(key).map(|value| number(key, value, min, max)).transpose()
    }
}

fn number(key: &str, value: &str, min: usize, max: usize) -> Result<usize, Error> {
    value.parse().ok().filter(|n| (min..=max).contains(n)).ok_or_else(|| {
        Error::Invalid(format!("options: {key}={value} is not a whole number of {min} to {max}"))
    })
}

/// `auto` means the default.
fn dtype(key: &str, value: &str, allowed: &[Dtype]) -> Result<Option<Dtype>, Error> {
    if value == "auto" {
        return Ok(None);
    }
    let found = allowed.iter().find(|dtype| dtype.name() == value);
    found.copied().map(Some).ok_or_else(|| {
        let names: Vec<_> = allowed.iter().map(|dtype| dtype.name()).collect();
        Error::Invalid(format!("options: {key}={value} is not one of auto, {}", names.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_shared_and_own_keys() {
        let options =
            Options::parse("dtype=bf16\n kv_dtype = f32 \n\nthreads=3\ncontext=64\n", &["threads"]).unwrap();
        assert_eq!((options.dtype, options.kv_dtype), (Some(Dtype::Bf16), Some(Dtype::F32)));
        assert_eq!(options.context, Some(64));
        assert_eq!(options.own_number("threads", 1, 8), Ok(Some(3)));
        assert!(options.own_number("threads", 1, 2).unwrap_err().to_string().contains("threads=3"));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for (text, named) in [
            ("dtype=int4", "dtype=int4"),
            ("kv_dtype=f16", "kv_dtype=f16"),
            ("thread=2", "\"thread\""),
            ("threads", "\"threads\""),
            ("context=0", "context=0"),
        ] {
            let error = Options::parse(text, &["threads"]).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
