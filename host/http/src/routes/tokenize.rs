//! `POST /tokenize`, in vLLM's shape: `prompt` or `messages` to ids.

use crate::app::Server;
use crate::body::Body;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::{job, prompt};
use hyper::Response;
use hyper::body::Incoming;
use serde_json::json;
use std::sync::Arc;

pub(crate) async fn post(server: &Arc<Server>, body: Incoming) -> Result<Response<Body>, ApiError> {
    super::read(server, body, tokenize).await.map(super::json)
}

fn tokenize(body: &[u8], server: &Server) -> Result<Vec<u8>, ApiError> {
    let app = &server.app;
    let fields = Fields::parse(body, &app.limits)?;
    job::model(&fields, server)?;
    fields.refuse(&[("chat_template", &[]), ("tools", &["[]"]), ("mm_processor_kwargs", &[])])?;
    let tokenizer = prompt::tokenizer(app, "prompt")?;
    let tokens = match fields.text("prompt")? {
        Some(_) if fields.raw("messages").is_some() => {
            return Err(ApiError::invalid("messages", "`prompt` and `messages` exclude each other"));
        }
        Some(text) => {
            prompt::check_text(&text, "prompt", app)?;
            let special = fields.flag("add_special_tokens")?.unwrap_or(true);
            tokenizer.encode(&text, special).map_err(|e| prompt::refusal("prompt", &e))?
        }
        None if fields.raw("messages").is_some() => {
            fields.refuse(&[("add_special_tokens", &["false"])])?;
            prompt::chat_prompt(&fields, app)?
        }
        None => return Err(ApiError::invalid("prompt", "`prompt` is missing")),
    };
    let strings: Option<Vec<_>> = fields
        .flag("return_token_strs")?
        .unwrap_or(false)
        .then(|| tokens.iter().map(|&token| tokenizer.token_text(token)).collect());
    let max_model_len = app.engine.limits().max_model_len;
    let answer = json!({"count": tokens.len(), "max_model_len": max_model_len, "tokens": tokens, "token_strs": strings});
    Ok(answer.to_string().into_bytes())
}
