//! Before there is a model: every request is told to come back, and probes see a live process.

use crate::body::Body;
use crate::connection::{Guarded, Phase};
use crate::error::ApiError;
use crate::limits::Limits;
use crate::router;
use crate::server::{protocol, refuse};
use crate::slots::{Slot, Slots};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use tokio::net::{TcpListener, TcpStream};

/// Answers until `loaded` is ready: `/livez` with 200, all else with 503 and Retry-After, one request per
/// connection. Connections still open then get that answer too; the next ones are [`serve`](crate::serve)'s.
pub async fn loading(listener: &TcpListener, limits: &Limits, loaded: impl Future<Output = ()>) {
    tokio::select! {
        () = loaded => {}
        () = accept(listener, limits) => {}
    }
}

async fn accept(listener: &TcpListener, limits: &Limits) {
    let slots = Slots::default();
    loop {
        // Failures pass: the client was faster, or too many files are open.
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        match slots.take(peer.ip(), limits.connections, limits.connections_per_ip) {
            Some(slot) => _ = tokio::spawn(connection(stream, limits.clone(), slot)),
            None => refuse(&stream),
        }
    }
}

async fn connection(stream: TcpStream, limits: Limits, _slot: Slot) {
    let socket = TokioIo::new(Guarded::new(stream, Phase::default(), &limits));
    let ended = protocol(&limits).keep_alive(false).serve_connection(socket, service_fn(answer)).await;
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let is_live = router::is_live(request.uri().path());
    Ok(if is_live { Response::new(Body::full("")) } else { ApiError::loading().response() })
}
