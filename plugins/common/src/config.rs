use std::collections::hash_map::IntoIter;
use std::fmt;

use serde::de::value::SeqDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, Expected, IntoDeserializer, MapAccess,
    Unexpected, Visitor,
};
use tinyjson::JsonValue;
use tokenmill_policy::Error;

/// The operator's text as JSON; no text at all is an empty object. Errors name the field.
///
/// Not `serde_json`: it would be more than half of a component.
pub fn config<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    let text = if text.trim().is_empty() { "{}" } else { text };
    let value: JsonValue = text.parse().map_err(|_| Error::BadConfig("it is not valid JSON".into()))?;
    T::deserialize(Value(value)).map_err(|Wrong(why)| Error::BadConfig(why))
}

struct Value(JsonValue);

impl IntoDeserializer<'_, Wrong> for Value {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Value {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.0 {
            JsonValue::Null => visitor.visit_unit(),
            JsonValue::Boolean(value) => visitor.visit_bool(value),
            // Those that are integers up to 2^53, where a number is no longer the one that was written.
            JsonValue::Number(value) if value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0 => {
                visitor.visit_i64(value as i64)
            }
            JsonValue::Number(value) => visitor.visit_f64(value),
            JsonValue::String(value) => visitor.visit_string(value),
            JsonValue::Array(values) => {
                visitor.visit_seq(SeqDeserializer::new(values.into_iter().map(Value)))
            }
            JsonValue::Object(fields) => visitor.visit_map(Fields { left: fields.into_iter(), value: None }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.0 {
            JsonValue::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// An object's fields; `value` is that of the one whose name was read last.
struct Fields {
    left: IntoIter<String, JsonValue>,
    value: Option<(String, Value)>,
}

impl<'de> MapAccess<'de> for Fields {
    type Error = Wrong;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Wrong> {
        let Some((name, value)) = self.left.next() else { return Ok(None) };
        let key = seed.deserialize(name.as_str().into_deserializer());
        self.value = Some((name, Value(value)));
        key.map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Wrong> {
        let (name, value) = self.value.take().ok_or_else(|| Wrong::custom("no name was read"))?;
        seed.deserialize(value).map_err(|Wrong(why)| Wrong(format!("{name}: {why}")))
    }
}

/// What is wrong. Does not repeat a wrong value: the code that prints numbers would come along.
#[derive(Debug)]
struct Wrong(String);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Wrong {}

impl serde::de::Error for Wrong {
    fn custom<T: fmt::Display>(why: T) -> Self {
        Self(why.to_string())
    }

    fn invalid_type(_: Unexpected, expected: &dyn Expected) -> Self {
        Self(format!("must be {expected}"))
    }

    fn invalid_value(_: Unexpected, expected: &dyn Expected) -> Self {
        Self(format!("must be {expected}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Example {
        name: String,
        share: f32,
        on: bool,
        most: Option<u32>,
        list: Vec<i64>,
    }

    #[test]
    fn json_becomes_a_configuration() {
        assert_eq!(config(" "), Ok(Example::default()));
        let text =
            r#" {"name": "a \"b\"\u00e9\n", "share": 1.25e-1, "on": true, "most": 4, "list": [-1, 2]} "#;
        let expected =
            Example { name: "a \"b\"é\n".into(), share: 0.125, on: true, most: Some(4), list: vec![-1, 2] };
        assert_eq!(config(text), Ok(expected));
        assert_eq!(config(r#"{"most": null, "share": 2}"#), Ok(Example { share: 2.0, ..Example::default() }));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let why = |text| config::<Example>(text).map_err(|error| error.to_string()).err().unwrap_or_default();
        assert!(why(r#"{"nam": "a"}"#).contains("unknown field `nam`"), "{}", why(r#"{"nam": "a"}"#));
        assert_eq!(why(r#"{"most": -1}"#), "policy configuration: most: must be u32");
        assert_eq!(why(r#"{"on": "yes"}"#), "policy configuration: on: must be a boolean");
        for text in ["{", "7", r#"{"most": 1.5}"#, r#"{"most": 1} x"#, r#"{"share": 1"#] {
            assert!(!why(text).is_empty(), "{text} was read");
        }
    }
}
