//! From a request line to a route; what all routes have in common is done here.

use crate::app::Server;
use crate::auth;
use crate::body::Body;
use crate::caller::Caller;
use crate::connection::Phase;
use crate::error::ApiError;
use crate::routes;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONNECTION, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response};
use std::convert::Infallible;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Chat,
    Completions,
    Models,
    Model,
    Tokenize,
    Detokenize,
    Health,
    Live,
    Metrics,
    Version,
}

/// Path, method, route. A path that ends in `/` takes the rest as a name.
const ROUTES: &[(&str, &str, Route)] = &[
    ("/v1/chat/completions", "POST", Route::Chat),
    ("/v1/completions", "POST", Route::Completions),
    ("/v1/models", "GET", Route::Models),
    ("/v1/models/", "GET", Route::Model),
    ("/tokenize", "POST", Route::Tokenize),
    ("/detokenize", "POST", Route::Detokenize),
    ("/health", "GET", Route::Health),
    ("/livez", "GET", Route::Live),
    ("/metrics", "GET", Route::Metrics),
    ("/version", "GET", Route::Version),
];

/// The route and the method it answers.
fn find(path: &str) -> Option<(Route, &'static str)> {
    let fits = |pattern: &str| {
        path == pattern || (pattern.ends_with('/') && path.len() > pattern.len() && path.starts_with(pattern))
    };
    ROUTES.iter().find(|(pattern, ..)| fits(pattern)).map(|&(_, method, route)| (route, method))
}

/// Whether a path asks if the process lives.
pub(crate) fn is_live(path: &str) -> bool {
    matches!(find(path), Some((Route::Live, _)))
}

/// Answers one request.
pub(crate) async fn handle(
    server: Arc<Server>,
    phase: Phase,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let busy = phase.busy();
    let arrived = Instant::now();
    let id = request_id(&server, request.headers());
    let mut response = match caught(respond(&server, request, arrived)).await {
        Some(Ok(response)) => response,
        Some(Err(error)) => error.response(),
        None => {
            server.metrics.panics.add(1);
            ApiError::internal().response()
        }
    };
    if response.status().is_server_error() {
        tracing::warn!(request_id = ?id, status = response.status().as_u16(), "request failed");
    }
    server.metrics.response(response.status().as_u16());
    response.headers_mut().insert(REQUEST_ID, id);
    if server.draining() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| body.holding(busy)))
}

async fn respond(
    server: &Arc<Server>,
    request: Request<Incoming>,
    arrived: Instant,
) -> Result<Response<Body>, ApiError> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let found = find(path);
    // Probes have no key; everything else needs it, also what does not exist.
    let open = matches!(found, Some((Route::Health | Route::Live, _)));
    let key = auth::key(&server.app.api_keys, &head.headers);
    if !open && key.is_none() {
        return Err(ApiError::unauthorized());
    }
    let (route, method) = found.ok_or_else(ApiError::unknown_route)?;
    let method_fits = head.method.as_str() == method || (head.method == Method::HEAD && method == "GET");
    if !method_fits {
        let mut response = ApiError::wrong_method(method).response();
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(method));
        return Ok(response);
    }
    let caller = || Caller::read(&head.headers, key.filter(|_| server.app.api_keys.len() > 1), arrived);
    match route {
        Route::Chat => routes::chat::post(server, body, caller()).await,
        Route::Completions => routes::completions::post(server, body, caller()).await,
        Route::Models => Ok(routes::models::list(server)),
        Route::Model => routes::models::get(server, path.trim_start_matches("/v1/models/")),
        Route::Tokenize => routes::tokenize::post(server, body).await,
        Route::Detokenize => routes::detokenize::post(server, body).await,
        Route::Health => routes::health::ready(server),
        Route::Live => Ok(routes::health::live()),
        Route::Metrics => Ok(routes::metrics::get(server)),
        Route::Version => Ok(routes::version::get()),
    }
}

/// The client's id if it is one that can be logged, else a new one.
fn request_id(server: &Server, headers: &HeaderMap) -> HeaderValue {
    let fits = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=128).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    };
    match headers.get(REQUEST_ID).filter(fits) {
        Some(value) => value.clone(),
        // Digits and letters are a valid header value.
        None => HeaderValue::from_str(&server.next_id().to_string())
            .unwrap_or_else(|_| HeaderValue::from_static("none")),
    }
}

/// The future's output, or `None` if it panicked: one request's defect is not the connection's.
pub(crate) async fn caught<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Ready(value)) => Poll::Ready(Some(value)),
        Ok(Poll::Pending) => Poll::Pending,
        Err(_) => Poll::Ready(None),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_only_its_future() {
        assert_eq!(caught(async { 1 }).await, Some(1));
        let panics = async {
            tokio::task::yield_now().await;
            assert!(std::hint::black_box(false), "as a defect would");
            1
        };
        assert_eq!(caught(panics).await, None);
    }

    #[test]
    fn paths_find_their_route() {
        let route = |path| find(path).map(|(route, _)| route);
        assert_eq!(route("/v1/models"), Some(Route::Models));
        assert_eq!(route("/v1/models/org/name"), Some(Route::Model));
        assert_eq!(route("/v1/models/"), Some(Route::Model));
        for path in ["/", "", "/v1", "/v1/completions/", "/v1/completionsx", "/health/deep"] {
            assert_eq!(route(path), None, "{path}");
        }
    }
}
