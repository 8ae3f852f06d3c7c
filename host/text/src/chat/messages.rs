//! From the shape of OpenAI messages to the shape chat templates expect.
use crate::TextError;
use serde_json::Value;

/// Changes messages in place: text parts are joined by newlines, `null` content becomes "", and the arguments of
/// tool calls, a JSON text on the wire, become the value templates index. A part that is not text is an error
/// that names its place.
pub fn prepare_messages(messages: &mut [Value]) -> Result<(), TextError> {
    for (i, message) in messages.iter_mut().enumerate() {
        let Some(message) = message.as_object_mut() else {
            return Err(TextError::Message(format!("messages[{i}] must be an object")));
        };
        let content = message.get("content").unwrap_or(&Value::Null);
        let text = match content {
            Value::String(_) => None,
            Value::Null => Some(String::new()),
            Value::Array(parts) => Some(join_parts(i, parts)?),
            _ => {
                return Err(TextError::Message(format!(
                    "messages[{i}].content must be a string or a list of parts"
                )));
            }
        };
        if let Some(text) = text {
            message.insert("content".into(), Value::String(text));
        }
        match message.get_mut("tool_calls") {
            None => {}
            Some(Value::Null) => drop(message.remove("tool_calls")),
            Some(Value::Array(calls)) => calls.iter_mut().for_each(parse_arguments),
            Some(_) => return Err(TextError::Message(format!("messages[{i}].tool_calls must be a list"))),
        }
    }
    Ok(())
}

fn join_parts(i: usize, parts: &[Value]) -> Result<String, TextError> {
    let text = |(j, part): (usize, &Value)| match (part["type"].as_str(), part["text"].as_str()) {
        (Some("text") | None, Some(text)) => Ok(text.to_string()),
        _ => Err(TextError::Message(format!(
            "messages[{i}].content[{j}] must be a text part; other types are not supported"
        ))),
    };
    let texts: Result<Vec<String>, _> = parts.iter().enumerate().map(text).collect();
    Ok(texts?.join("\n"))
}

/// Arguments that are no JSON stay the text the model wrote.
fn parse_arguments(call: &mut Value) {
    if let Some(arguments) = call.pointer_mut("/function/arguments")
        && let Some(parsed) = arguments.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok())
    {
        *arguments = parsed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn openai_messages_become_what_templates_expect() {
        let mut messages = [
            json!({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}),
            json!({"role": "assistant", "content": null,
                   "tool_calls": [{"function": {"name": "f", "arguments": "{\"x\": 1}"}}]}),
        ];
        prepare_messages(&mut messages).unwrap();
        assert_eq!(messages[0]["content"], "a\nb");
        assert_eq!(messages[1]["content"], "");
        assert_eq!(messages[1]["tool_calls"][0]["function"]["arguments"], json!({"x": 1}));
    }

    #[test]
    fn other_shapes_are_refused_by_name() {
        for (message, field) in [
            (json!("hi"), "messages[0]"),
            (json!({"content": 5}), "messages[0].content"),
            (
                json!({"content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}),
                "messages[0].content[0]",
            ),
            (json!({"content": "", "tool_calls": 1}), "messages[0].tool_calls"),
        ] {
            let error = prepare_messages(&mut [message]).unwrap_err().to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }
}
