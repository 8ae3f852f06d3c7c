//! Renders a conversation as transformers' `apply_chat_template` does (Jinja with `trim_blocks`, `lstrip_blocks`,
//! loop controls, Python's string methods, `tojson`, `raise_exception` and `strftime_now`).
//!
//! A template comes with the model and counts as hostile: it can open no file, and its fuel bounds its instructions
//! and (at 64 bytes a unit) the strings it may make. Fuel does not bound lists: minijinja 3.1.0 adds and repeats them
//! lazily and free of charge, and a list that holds one list twice doubles what printing or comparing it takes.
//! [`crate::open_apart`] bounds those too.
use super::{clock::strftime_now, methods, python_json::tojson};
use crate::{Chat, TextError, file, settings};
use minijinja::{Environment, Error, ErrorKind, State, Value, syntax::SyntaxConfig, value::Serde};
use serde_json::{Map, Value as Json};
use std::path::Path;

/// Fuel every conversation gets: about 10 ms, or 26 MB.
const BASE_FUEL: u64 = 400_000;
/// Fuel for each message and each tool: templates run some 50 to 300 instructions per message.
const MESSAGE_FUEL: u64 = 1_000;

/// transformers' own mark for the place where the final message is to be continued.
const CONTINUE_TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// A template ready to be rendered in this process.
pub(super) struct Compiled {
    environment: Environment<'static>,
    special_tokens: Map<String, Json>,
}

impl Compiled {
    /// The template of a model directory: `chat_template.jinja`, else `chat_template` in tokenizer_config.json
    /// (one template, or a list of named ones). `None` where the model has no template.
    pub(super) fn from_dir(dir: &Path) -> Result<Option<Self>, TextError> {
        let special_tokens = settings::special_tokens(dir)?;
        let alone = dir.join("chat_template.jinja");
        let config = dir.join("tokenizer_config.json");
        let (path, templates) = match file::read(&alone)? {
            Some(bytes) => {
                let source = String::from_utf8(bytes).map_err(|e| TextError::file(&alone, e))?;
                (alone, vec![("default".to_string(), source)])
            }
            None => (config.clone(), named_templates(&config)?),
        };
        if templates.is_empty() {
            return Ok(None);
        }
        let template = Self::compile(templates, &special_tokens);
        template.map(Some).map_err(|e| TextError::file(&path, format!("chat_template: {e}")))
    }

    /// A template from its source. `special_tokens` are variables of the template: `{"bos_token": "<s>", …}`.
    pub(super) fn new(source: &str, special_tokens: &Map<String, Json>) -> Result<Self, TextError> {
        Self::compile(vec![("default".into(), source.into())], special_tokens).map_err(into_text_error)
    }

    fn compile(templates: Vec<(String, String)>, special_tokens: &Map<String, Json>) -> Result<Self, Error> {
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(methods::call);
        environment.add_filter("tojson", |state: &State, value: &Value, indent, kwargs| {
            tojson(state, value, indent, kwargs)
        });
        environment.add_function("strftime_now", |format: String| strftime_now(&format));
        environment.add_function("raise_exception", |message: String| -> Result<(), Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        for (name, source) in templates {
            environment.add_template_owned(name, without_generation_tags(&source))?;
        }
        Ok(Compiled { environment, special_tokens: special_tokens.clone() })
    }

    /// The prompt text of a conversation.
    pub(super) fn render(&self, chat: &Chat<'_>) -> Result<String, TextError> {
        if !chat.continue_final_message {
            return self.render_messages(chat, chat.messages).map_err(into_text_error);
        }
        let mut messages = chat.messages.to_vec();
        let last = messages.last_mut().and_then(|m| m.get_mut("content"));
        let Some(Json::String(content)) = last else {
            return Err(TextError::Message("the final message has no text to continue".into()));
        };
        let begun = content.trim().to_string();
        content.push_str(CONTINUE_TAG);
        let text = self.render_messages(chat, &messages).map_err(into_text_error)?;
        match text.rfind(CONTINUE_TAG.trim_end()) {
            Some(at) if text.contains(&begun) => {
                // Where the template trimmed the tag's space it would have trimmed the message's too.
                let kept = text[at..].starts_with(CONTINUE_TAG);
                Ok(if kept { text[..at].to_string() } else { text[..at].trim_end().to_string() })
            }
            _ => Err(TextError::Template(
                "the final message does not appear in the rendered conversation".into(),
            )),
        }
    }

    fn render_messages(&self, chat: &Chat<'_>, messages: &[Json]) -> Result<String, Error> {
        let variables = self.special_tokens.iter().chain(chat.extra.into_iter().flatten());
        let mut context: Vec<(String, Value)> =
            variables.map(|(name, value)| (name.clone(), Value::from(Serde(value)))).collect();
        let tools = chat.tools.map_or(Value::from(()), |tools| Value::from(Serde(tools)));
        context.push(("messages".into(), Value::from(Serde(messages))));
        context.push(("tools".into(), tools));
        context.push(("documents".into(), Value::from(())));
        context.push(("add_generation_prompt".into(), Value::from(chat.add_generation_prompt)));

        // Cloning shares the compiled templates; only the fuel differs.
        let mut environment = self.environment.clone();
        let items = (messages.len() + chat.tools.map_or(0, <[Json]>::len)) as u64;
        let bytes: usize = messages.iter().chain(chat.tools.into_iter().flatten()).map(text_bytes).sum();
        environment.set_fuel(Some(BASE_FUEL + MESSAGE_FUEL * items + bytes as u64));
        let tool_use = chat.tools.and_then(|_| environment.get_template("tool_use").ok());
        let template = match tool_use {
            Some(template) => template,
            None => environment.get_template("default")?,
        };
        template.render(Value::from_pairs(context))
    }
}

/// `chat_template` of tokenizer_config.json as (name, source) pairs.
fn named_templates(config: &Path) -> Result<Vec<(String, String)>, TextError> {
    let json: Map<String, Json> = file::read_json(config)?.unwrap_or_default();
    let bad = || TextError::file(config, "chat_template must be a string or a list of {name, template}");
    match json.get("chat_template") {
        None | Some(Json::Null) => Ok(Vec::new()),
        Some(Json::String(source)) => Ok(vec![("default".into(), source.clone())]),
        Some(Json::Array(list)) => {
            let pair = |item: &Json| Some((item["name"].as_str()?.into(), item["template"].as_str()?.into()));
            list.iter().map(pair).collect::<Option<_>>().ok_or_else(bad)
        }
        Some(_) => Err(bad()),
    }
}

/// `{% generation %}` marks assistant text for training; it prints its body unchanged.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let Some(close) = rest[open + 2..].find("%}").map(|n| open + 2 + n) else { break };
        let inner = &rest[open + 2..close];
        let name = inner.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        out.push_str(&rest[..open + 2]);
        match name {
            "generation" => out.push_str(&inner.replace(name, "if true")),
            "endgeneration" => out.push_str(&inner.replace(name, "endif")),
            _ => out.push_str(inner),
        }
        rest = &rest[close..];
    }
    out + rest
}

/// Bytes of all strings in a value.
fn text_bytes(value: &Json) -> usize {
    match value {
        Json::String(text) => text.len(),
        Json::Array(items) => items.iter().map(text_bytes).sum(),
        Json::Object(map) => map.iter().map(|(key, item)| key.len() + text_bytes(item)).sum(),
        _ => 8,
    }
}

fn into_text_error(error: Error) -> TextError {
    match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => TextError::TemplateBudget,
        (ErrorKind::InvalidOperation, Some(detail)) => TextError::Template(detail.to_string()),
        _ => TextError::Template(error.to_string()),
    }
}
