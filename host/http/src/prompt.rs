//! From what a client sent to token ids, within the bounds of the model.

use crate::app::App;
use crate::error::ApiError;
use crate::fields::{Fields, Int};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokenmill_text::{Chat, TextError, Tokenizer, prepare_messages};

/// One prompt, ready for the engine.
pub(crate) struct Prompt {
    pub(crate) ids: Vec<u32>,
    /// As the client wrote it; only kept where it is echoed.
    pub(crate) text: Option<String>,
    pub(crate) max_tokens: u32,
}

/// `prompt` of a completions request: a string, a list of strings, token ids, or a list of those.
pub(crate) fn completion_prompts(
    fields: &Fields<'_>,
    app: &App,
    keep_text: bool,
) -> Result<Vec<Prompt>, ApiError> {
    const NAME: &str = "prompt";
    let shape = "a string, a list of strings, a list of token ids, or a list of such lists";
    let special = fields.flag("add_special_tokens")?.unwrap_or(true);
    let raw = fields.raw(NAME).ok_or_else(|| ApiError::invalid(NAME, "`prompt` is missing"))?.get();
    let first = raw.strip_prefix('[').map(|rest| rest.trim_start().as_bytes().first());
    let prompts = match first {
        None => texts(vec![field(fields, NAME, shape)?], app, special, keep_text)?,
        Some(Some(b'"')) => texts(field(fields, NAME, shape)?, app, special, keep_text)?,
        Some(Some(b'[')) => field::<Vec<Vec<u32>>>(fields, NAME, shape)?.into_iter().map(tokens).collect(),
        Some(_) => vec![tokens(field(fields, NAME, shape)?)],
    };
    if prompts.len() > app.limits.prompts {
        return Err(ApiError::invalid(
            NAME,
            format!("`prompt` holds more than {} prompts", app.limits.prompts),
        ));
    }
    let vocab = app.engine.limits().vocab;
    for prompt in &prompts {
        if prompt.ids.iter().any(|&id| id >= vocab) {
            return Err(ApiError::invalid(NAME, format!("`prompt` has a token id outside 0..{vocab}")));
        }
    }
    let begin = app.tokenizer.as_ref().and_then(|tokenizer| tokenizer.bos_id());
    if prompts.is_empty() || prompts.iter().any(|prompt| prompt.ids.iter().all(|&id| Some(id) == begin)) {
        return Err(ApiError::invalid(NAME, "`prompt` has no tokens besides the start token"));
    }
    Ok(prompts)
}

fn field<'a, T: Deserialize<'a>>(fields: &Fields<'a>, name: &str, shape: &str) -> Result<T, ApiError> {
    let value = fields.get(name, shape)?;
    value.ok_or_else(|| ApiError::invalid(name, format!("`{name}` must be {shape}")))
}

fn tokens(ids: Vec<u32>) -> Prompt {
    Prompt { ids, text: None, max_tokens: 0 }
}

fn texts(texts: Vec<String>, app: &App, special: bool, keep: bool) -> Result<Vec<Prompt>, ApiError> {
    let tokenizer = tokenizer(app, "prompt")?;
    let mut prompts = Vec::with_capacity(texts.len().min(app.limits.prompts + 1));
    for text in texts.into_iter().take(app.limits.prompts + 1) {
        check_text(&text, "prompt", app)?;
        let ids = tokenizer.encode(&text, special).map_err(|e| refusal("prompt", &e))?;
        prompts.push(Prompt { ids, text: keep.then_some(text), max_tokens: 0 });
    }
    Ok(prompts)
}

/// `messages` and its options, through the model's template.
pub(crate) fn chat_prompt(fields: &Fields<'_>, app: &App) -> Result<Vec<u32>, ApiError> {
    let tokenizer = tokenizer(app, "messages")?;
    let template = app.template.as_ref().ok_or_else(|| {
        ApiError::invalid("messages", "this model has no chat template; use /v1/completions")
    })?;
    let messages = messages(fields, app)?;
    let extra = template_kwargs(fields, app)?;
    let continue_final_message = fields.flag("continue_final_message")?.unwrap_or(false);
    let generate = fields.flag("add_generation_prompt")?;
    if continue_final_message && generate == Some(true) {
        let message = "`add_generation_prompt` and `continue_final_message` exclude each other";
        return Err(ApiError::invalid("continue_final_message", message));
    }
    let chat = Chat {
        messages: &messages,
        tools: None,
        add_generation_prompt: generate.unwrap_or(!continue_final_message),
        continue_final_message,
        extra: extra.as_ref(),
    };
    tokenizer.encode_chat(template, &chat).map_err(|e| refusal("messages", &e))
}

fn messages(fields: &Fields<'_>, app: &App) -> Result<Vec<Value>, ApiError> {
    const NAME: &str = "messages";
    let raw = fields.raw(NAME).ok_or_else(|| ApiError::invalid(NAME, "`messages` is missing"))?;
    check_text(raw.get(), NAME, app)?;
    let limits = &app.limits;
    if crate::json::measure(raw.get().as_bytes(), limits.json_depth).values > limits.json_values {
        return Err(ApiError::invalid(
            NAME,
            format!("`messages` holds more than {} values", limits.json_values),
        ));
    }
    let mut messages: Vec<Value> = field(fields, NAME, "a list of messages")?;
    if messages.is_empty() {
        return Err(ApiError::invalid(NAME, "`messages` must not be empty"));
    }
    check_parts(&messages)?;
    prepare_messages(&mut messages).map_err(|e| refusal(NAME, &e))?;
    Ok(messages)
}

/// This server reads text: any other content part is refused before anything looks at it.
fn check_parts(messages: &[Value]) -> Result<(), ApiError> {
    for (i, message) in messages.iter().enumerate() {
        let Some(Value::Array(parts)) = message.get("content") else { continue };
        for (j, part) in parts.iter().enumerate() {
            if part.get("type").and_then(Value::as_str) != Some("text") {
                let param = format!("messages[{i}].content[{j}].type");
                let message =
                    format!("`{param}` must be \"text\": this server reads no images, audio or files");
                return Err(ApiError::invalid(&param, message));
            }
        }
    }
    Ok(())
}

/// Template variables run inside the template, so only the operator's list passes.
fn template_kwargs(fields: &Fields<'_>, app: &App) -> Result<Option<Map<String, Value>>, ApiError> {
    const NAME: &str = "chat_template_kwargs";
    let Some(raw) = fields.raw(NAME) else { return Ok(None) };
    if crate::json::measure(raw.get().as_bytes(), 8).values > 256 {
        return Err(ApiError::invalid(NAME, "`chat_template_kwargs` is too large"));
    }
    let map: Map<String, Value> = field(fields, NAME, "an object")?;
    match map.keys().find(|key| !app.template_kwargs.contains(key)) {
        Some(_) => {
            Err(ApiError::invalid(NAME, "`chat_template_kwargs` has a key that this server does not allow"))
        }
        None => Ok(Some(map)),
    }
}

pub(crate) fn tokenizer<'a>(app: &'a App, param: &str) -> Result<&'a Tokenizer, ApiError> {
    app.tokenizer.as_deref().ok_or_else(|| {
        ApiError::invalid(param, "this server runs without a tokenizer: send `prompt` as token ids")
    })
}

pub(crate) fn check_text(text: &str, param: &str, app: &App) -> Result<(), ApiError> {
    let limit = app.limits.text_bytes;
    if text.len() > limit {
        return Err(ApiError::invalid(param, format!("`{param}` is longer than {limit} bytes")));
    }
    Ok(())
}

/// What the text crate says of a request is meant for the client; of files it is not.
pub(crate) fn refusal(param: &str, error: &TextError) -> ApiError {
    match error {
        TextError::File { .. } => {
            tracing::error!(%error, "a model file failed while serving");
            ApiError::internal()
        }
        _ => ApiError::invalid(param, error.to_string()),
    }
}

/// How long an answer may be.
pub(crate) struct Budget {
    asked: Option<(&'static str, u32)>,
    default: Option<u32>,
    limit: u32,
}

impl Budget {
    /// `max_completion_tokens`, else `max_tokens`, else `default`, else what the context leaves.
    pub(crate) fn read(
        fields: &Fields<'_>,
        app: &App,
        min: i64,
        default: Option<u32>,
    ) -> Result<Self, ApiError> {
        let limit = app.engine.limits().max_model_len;
        let mut asked = None;
        for name in ["max_tokens", "max_completion_tokens"] {
            if let Some(tokens) = fields.int(Int { name, min, max: i64::from(limit) })? {
                asked = Some((name, tokens as u32));
            }
        }
        Ok(Self { asked, default, limit })
    }

    /// The most tokens to generate after a prompt of `prompt` tokens, which the field `param` held.
    pub(crate) fn after(&self, prompt: usize, param: &str) -> Result<u32, ApiError> {
        let limit = self.limit;
        let room = u32::try_from(prompt).ok().and_then(|prompt| limit.checked_sub(prompt));
        let wanted = self.asked.map_or(1, |(_, tokens)| tokens.min(1));
        let Some(room) = room.filter(|&room| room >= wanted) else {
            let message = format!("the context holds {limit} tokens, and `{param}` has {prompt}");
            return Err(ApiError::context_length(param, message));
        };
        match self.asked {
            Some((name, tokens)) if tokens > room => {
                let message = format!(
                    "the context holds {limit} tokens; `{name}` asks for {tokens} after a prompt of {prompt}"
                );
                Err(ApiError::context_length(name, message))
            }
            Some((_, tokens)) => Ok(tokens),
            None => Ok(self.default.map_or(room, |default| default.min(room))),
        }
    }
}
