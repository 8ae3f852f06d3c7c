//! `POST /detokenize`, in vLLM's shape: ids to text.

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
    super::read(server, body, detokenize).await.map(super::json)
}

fn detokenize(body: &[u8], server: &Server) -> Result<Vec<u8>, ApiError> {
    let app = &server.app;
    let fields = Fields::parse(body, &app.limits)?;
    job::model(&fields, server)?;
    let tokenizer = prompt::tokenizer(app, "tokens")?;
    let tokens: Option<Vec<u32>> = fields.get("tokens", "a list of token ids")?;
    let tokens = tokens.ok_or_else(|| ApiError::invalid("tokens", "`tokens` is missing"))?;
    let vocab = app.engine.limits().vocab;
    if tokens.iter().any(|&id| id >= vocab) {
        return Err(ApiError::invalid("tokens", format!("`tokens` has an id outside 0..{vocab}")));
    }
    let text = tokenizer.decode(&tokens, false).map_err(|e| prompt::refusal("tokens", &e))?;
    Ok(json!({"prompt": text}).to_string().into_bytes())
}
