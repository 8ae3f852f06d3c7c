use serde::de::value::{Error as Wrong, MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use tinyjson::JsonValue;
use tokenmill_policy::Error;

/// The operator's text as JSON; no text at all is an empty object. Errors name the field.
///
/// Not `serde_json`: it would be more than half of a component.
pub fn config<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    let text = if text.trim().is_empty() { "{}" } else { text };
    let value: JsonValue = text.parse().map_err(|error| Error::BadConfig(format!("{error}")))?;
    T::deserialize(Value(value)).map_err(|error| Error::BadConfig(error.to_string()))
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
            JsonValue::Object(fields) => {
                let fields = fields.into_iter().map(|(name, value)| (name, Value(value)));
                visitor.visit_map(MapDeserializer::new(fields))
            }
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
        assert!(why(r#"{"most": -1}"#).contains("-1"), "{}", why(r#"{"most": -1}"#));
        for text in ["{", "7", r#"{"most": 1.5}"#, r#"{"most": 1} x"#, r#"{"on": "yes"}"#, r#"{"share": 1"#] {
            assert!(!why(text).is_empty(), "{text} was read");
        }
    }
}
