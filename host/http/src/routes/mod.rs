//! One file per route.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod detokenize;
pub(crate) mod health;
pub(crate) mod metrics;
pub(crate) mod models;
pub(crate) mod tokenize;
pub(crate) mod version;

use crate::answer::Answer;
use crate::app::Server;
use crate::body::{self, Body};
use crate::caller::Caller;
use crate::error::ApiError;
use crate::job::Job;
use crate::sse::Stream;
use crate::whole;
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use std::sync::Arc;

/// Bodies up to this size are read and tokenised where they arrive; it takes less time than handing them over.
const INLINE: usize = 8 << 10;

/// Reads a body and turns it into `T`, on a thread of its own where that takes long.
async fn read<T: Send + 'static>(
    server: &Arc<Server>,
    body: Incoming,
    parse: fn(&[u8], &Server) -> Result<T, ApiError>,
) -> Result<T, ApiError> {
    let received = body::read(body, &server.buffered, &server.app.limits).await?;
    if received.bytes.len() <= INLINE {
        return parse(&received.bytes, server);
    }
    let permit = server.tokenising.clone().acquire_owned().await.map_err(|_| ApiError::internal())?;
    let shared = server.clone();
    let parsed = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        parse(&received.bytes, &shared)
    });
    parsed.await.unwrap_or_else(|_| {
        server.metrics.panics.add(1);
        Err(ApiError::internal())
    })
}

/// Runs a job and answers it, streamed or whole.
async fn answer(server: &Arc<Server>, mut job: Job, caller: Caller) -> Result<Response<Body>, ApiError> {
    job.prepare(server).await?;
    let streaming = job.common.stream;
    let answer = Answer::start(server.clone(), job, &caller)?;
    let Some(streaming) = streaming else {
        return Ok(json(whole::collect(answer).await?));
    };
    let mut response = Response::new(Body::stream(Stream::new(answer, streaming)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

fn json(bytes: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::full(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
