//! Chat templates against transformers: 9 real templates × 10 conversations.
#![allow(clippy::unwrap_used)]
use serde_json::{Map, Value};
use std::path::Path;
use tokenmill_text::{Chat, ChatTemplate, TextError};

fn render(template: &ChatTemplate, case: &Value) -> Result<String, TextError> {
    let mut extra: Map<String, Value> = case["options"].as_object().unwrap().clone();
    let mut flag = |name| extra.remove(name).is_some_and(|v| v == true);
    let (add_generation_prompt, continue_final_message) =
        (flag("add_generation_prompt"), flag("continue_final_message"));
    let tools = extra.remove("tools");
    template.render(&Chat {
        messages: case["messages"].as_array().unwrap(),
        tools: tools.as_ref().and_then(Value::as_array).map(Vec::as_slice),
        add_generation_prompt,
        continue_final_message,
        extra: Some(&extra),
    })
}

#[test]
fn rendered_conversations_equal_transformers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/chat");
    let (mut cases, mut failures) = (0, Vec::new());
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let file: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let special = file["special_tokens"].as_object().unwrap();
        let template = ChatTemplate::new(file["template"].as_str().unwrap(), special).unwrap();
        for case in file["cases"].as_array().unwrap() {
            cases += 1;
            let name = format!("{} / {}", path.file_stem().unwrap().display(), case["name"]);
            match (render(&template, case), case["error"].as_str()) {
                (Ok(text), None) if text == case["expected"] => {}
                // A template's own message must come through; Python's type errors only have to be errors.
                (Err(TextError::Template(message)), Some(error)) => {
                    if let Some(expected) = error.strip_prefix("TemplateError: ") {
                        assert_eq!(message, expected, "{name}");
                    }
                }
                (got, _) => {
                    failures.push(format!("{name}\n  got      {got:?}\n  expected {}", case["expected"]))
                }
            }
        }
    }
    assert_eq!(cases, 90);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
