use serde::de::DeserializeOwned;
use tokenmill_policy::Error;

/// The operator's text as JSON; no text at all is an empty object. Errors name the field.
pub fn config<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    let text = if text.trim().is_empty() { "{}" } else { text };
    serde_json::from_str(text).map_err(|error| Error::BadConfig(error.to_string()))
}
