use llguidance::api::TopLevelGrammar;
use serde_json::{Value, json};

use crate::Error;

/// What an output must look like.
#[derive(Clone, Debug, PartialEq)]
pub enum Grammar {
    /// Any JSON object.
    JsonObject,
    /// A JSON value that a schema (draft 2020-12) describes.
    JsonSchema(Value),
    /// All of the output matches; Rust's syntax, without look-around and back references.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
}

/// Between the parts of JSON at most one space: a small model could otherwise go on with white space
/// until its tokens are used up, and still follow the schema.
const WHITE_SPACE: &str = " ?";

impl Grammar {
    pub(crate) fn compile(&self) -> Result<TopLevelGrammar, Error> {
        Ok(match self {
            Self::JsonObject => schema(json!({ "type": "object" }))?,
            Self::JsonSchema(value) => schema(value.clone())?,
            Self::Regex(regex) => TopLevelGrammar::from_regex(regex),
            Self::Choice(texts) if texts.is_empty() || texts.iter().any(String::is_empty) => {
                return Err(Error::Grammar("a choice needs at least one text, and none may be empty".into()));
            }
            Self::Choice(texts) => {
                let quoted: Vec<String> = texts.iter().map(|text| escape(text)).collect();
                TopLevelGrammar::from_regex(&quoted.join("|"))
            }
        })
    }

    /// The same for equal grammars.
    pub(crate) fn key(&self) -> String {
        match self {
            Self::JsonObject => "o".into(),
            Self::JsonSchema(schema) => format!("s{schema}"),
            Self::Regex(regex) => format!("r{regex}"),
            Self::Choice(texts) => format!("c{}", json!(texts)),
        }
    }
}

fn schema(mut value: Value) -> Result<TopLevelGrammar, Error> {
    match &mut value {
        Value::Object(schema) => {
            schema.insert("x-guidance".into(), json!({ "whitespace_pattern": WHITE_SPACE }));
        }
        Value::Bool(true) => return schema(json!({})),
        _ => return Err(Error::Grammar("a JSON schema is an object".into())),
    }
    Ok(TopLevelGrammar::from_json_schema(value))
}

/// A regular expression for exactly this text.
fn escape(text: &str) -> String {
    let mut regex = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii_punctuation() {
            regex.push('\\');
        }
        regex.push(character);
    }
    regex
}
