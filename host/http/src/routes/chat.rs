//! `POST /v1/chat/completions`

use crate::app::Server;
use crate::body::Body;
use crate::caller::Caller;
use crate::error::ApiError;
use crate::job::Job;
use hyper::Response;
use hyper::body::Incoming;
use std::sync::Arc;

pub(crate) async fn post(
    server: &Arc<Server>,
    body: Incoming,
    caller: Caller,
) -> Result<Response<Body>, ApiError> {
    let job = super::read(server, body, Job::chat).await?;
    super::answer(server, job, caller).await
}
