//! The operator's routes, on a listener of their own: policies are listed, put and deleted while the server runs.
//!
//! ```text
//! GET    /admin/policies         all of them
//! GET    /admin/policies/NAME    one
//! PUT    /admin/policies/NAME    body: a component; ?kind=sampler|scheduler&enforcing=true|false
//! DELETE /admin/policies/NAME
//! ```
//!
//! A `PUT` brings its configuration in the header `x-tokenmill-policy-config`; without the header it is empty,
//! whatever it was before.
//!
//! Invariant: nothing here is reachable without the key, and none of it from the public listener.

use crate::body::{self, Body, Buffered};
use crate::connection::{Guarded, Phase};
use crate::error::ApiError;
use crate::limits::Limits;
use crate::policies::{Policies, Upload};
use crate::server::{protocol, refuse};
use crate::slots::{Slot, Slots};
use crate::{auth, router};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, watch};
use tokio::time::{sleep, timeout};

const ROOT: &str = "/admin/policies";
const CONFIG: &str = "x-tokenmill-policy-config";
/// Operators are few.
const CONNECTIONS: usize = 64;
/// For a `PUT` in progress at the end: as long as compiling may take, and some.
const CLOSING: Duration = Duration::from_secs(15);

/// Everything [`admin`] needs.
pub struct Admin {
    pub policies: Arc<dyn Policies>,
    /// Opens all routes; must not be empty.
    pub key: String,
}

struct Desk {
    policies: Arc<dyn Policies>,
    keys: [String; 1],
    limits: Limits,
    buffered: Buffered,
    /// One change at a time, in the order in which they came.
    changes: Mutex<()>,
}

/// Serves the operator's routes until `shutdown` is ready, then closes the port and lets what is being
/// answered finish. An empty key opens nothing.
pub async fn admin(listener: TcpListener, admin: Admin, shutdown: impl Future<Output = ()>) {
    let largest = admin.policies.component_bytes();
    let limits = Limits { body_bytes: largest, buffered_bytes: 4 * largest, ..Limits::default() };
    let (keys, buffered, changes) = ([admin.key], Buffered::default(), Mutex::default());
    let desk = Arc::new(Desk { policies: admin.policies, keys, limits, buffered, changes });
    let slots = Slots::default();
    let (close, closed) = watch::channel(false);
    tokio::select! {
        () = shutdown => {}
        () = accept(&listener, &desk, &slots, &closed) => {}
    }
    drop(listener);
    close.send_replace(true);
    _ = timeout(CLOSING, slots.empty()).await;
}

async fn accept(listener: &TcpListener, desk: &Arc<Desk>, slots: &Slots, closed: &watch::Receiver<bool>) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        match slots.take(peer.ip(), CONNECTIONS, CONNECTIONS) {
            Some(slot) => _ = tokio::spawn(connection(stream, desk.clone(), closed.clone(), slot)),
            None => refuse(&stream),
        }
    }
}

async fn connection(stream: TcpStream, desk: Arc<Desk>, mut closed: watch::Receiver<bool>, _slot: Slot) {
    let phase = Phase::default();
    let socket = TokioIo::new(Guarded::new(stream, phase.clone(), &desk.limits));
    let service = service_fn(|request| handle(desk.clone(), phase.clone(), request));
    let mut serving = pin!(protocol(&desk.limits).serve_connection(socket, service));
    tokio::select! {
        _ = serving.as_mut() => return,
        _ = closed.wait_for(|closed| *closed) => serving.as_mut().graceful_shutdown(),
    }
    _ = serving.await;
}

async fn handle(
    desk: Arc<Desk>,
    phase: Phase,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let busy = phase.busy();
    let response = router::caught(respond(&desk, request)).await;
    let response = response.unwrap_or_else(|| Err(ApiError::internal()));
    Ok(response.unwrap_or_else(|error| error.response()).map(|body| body.holding(busy)))
}

async fn respond(desk: &Arc<Desk>, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
    let (head, body) = request.into_parts();
    if desk.keys[0].is_empty() || auth::key(&desk.keys, &head.headers).is_none() {
        return Err(ApiError::unauthorized());
    }
    let path = head.uri.path();
    let name = path.strip_prefix(ROOT).and_then(|rest| rest.strip_prefix('/'));
    let name = name.filter(|name| !name.is_empty() && !name.contains('/')).map(str::to_owned);
    match (name, &head.method) {
        (None, _) if path != ROOT => Err(ApiError::unknown_route()),
        (None, &Method::GET) => {
            let list = off_thread(desk, |policies| policies.list()).await?;
            Ok(answer(StatusCode::OK, &json!({ "object": "list", "data": list })))
        }
        (None, _) => Ok(wrong_method("GET")),
        (Some(name), &Method::GET) => {
            let asked = name.clone();
            let found = off_thread(desk, move |policies| policies.get(&asked)).await?;
            let found = found.ok_or(crate::PolicyError::Unknown(name))?;
            Ok(answer(StatusCode::OK, &found))
        }
        (Some(name), &Method::PUT) => put(desk, name, &head, body).await,
        (Some(name), &Method::DELETE) => {
            let _turn = desk.changes.lock().await;
            let asked = name.clone();
            off_thread(desk, move |policies| policies.delete(&asked)).await??;
            tracing::info!("admin: policy {name} was deleted");
            Ok(answer(StatusCode::OK, &json!({ "name": name, "deleted": true })))
        }
        (Some(_), _) => Ok(wrong_method("GET, PUT, DELETE")),
    }
}

async fn put(
    desk: &Arc<Desk>,
    name: String,
    head: &Parts,
    body: Incoming,
) -> Result<Response<Body>, ApiError> {
    let (kind, enforcing) = query(head.uri.query().unwrap_or(""))?;
    let config = match head.headers.get(CONFIG) {
        None => String::new(),
        Some(value) => String::from_utf8(value.as_bytes().to_vec())
            .map_err(|_| ApiError::invalid(CONFIG, format!("`{CONFIG}` is not UTF-8")))?,
    };
    let received = body::read(body, &desk.buffered, &desk.limits).await?;
    let _turn = desk.changes.lock().await;
    let upload = Upload { name: name.clone(), kind, component: received.bytes.clone(), config, enforcing };
    let put = off_thread(desk, move |policies| policies.put(&upload)).await?;
    if let Err(error) = &put {
        tracing::warn!("admin: policy {name} was not taken: {error}");
    }
    Ok(answer(StatusCode::OK, &put?))
}

/// `kind` and `enforcing`.
fn query(query: &str) -> Result<(Option<String>, bool), ApiError> {
    let (mut kind, mut enforcing) = (None, false);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("kind", value @ ("sampler" | "scheduler")) => kind = Some(value.to_owned()),
            ("kind", _) => return Err(ApiError::invalid("kind", "`kind` must be sampler or scheduler")),
            ("enforcing", "true") => enforcing = true,
            ("enforcing", "false") => enforcing = false,
            ("enforcing", _) => {
                return Err(ApiError::invalid("enforcing", "`enforcing` must be true or false"));
            }
            (other, _) => {
                let other: String = other.chars().take(64).collect();
                return Err(ApiError::invalid(&other, format!("`{other}` is no parameter of this route")));
            }
        }
    }
    Ok((kind, enforcing))
}

/// Runs what may take seconds where it holds nobody up.
async fn off_thread<T: Send + 'static>(
    desk: &Desk,
    work: impl FnOnce(&dyn Policies) -> T + Send + 'static,
) -> Result<T, ApiError> {
    let policies = desk.policies.clone();
    tokio::task::spawn_blocking(move || work(&*policies)).await.map_err(|error| {
        tracing::error!(%error, "a change of policies panicked");
        ApiError::internal()
    })
}

fn wrong_method(allow: &'static str) -> Response<Body> {
    let mut response = ApiError::wrong_method(allow).response();
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}

fn answer(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::full(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_understood_or_named() {
        let read = |text| query(text).map_err(|error| error.param.unwrap_or_default());
        assert_eq!(read(""), Ok((None, false)));
        assert_eq!(read("kind=sampler&enforcing=true"), Ok((Some("sampler".to_owned()), true)));
        for (text, name) in [("kind=tokenizer", "kind"), ("enforcing", "enforcing"), ("force=1", "force")] {
            assert_eq!(read(text), Err(name.to_owned()));
        }
    }
}
