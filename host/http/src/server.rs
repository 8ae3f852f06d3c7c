//! Accepts connections, and lets them end in order.

use crate::app::{App, Server};
use crate::connection::{Guarded, Phase};
use crate::error::ApiError;
use crate::limits::Limits;
use crate::router;
use crate::slots::{Slot, Slots};
use crate::watchdog;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokenmill_engine::Failure;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// Bytes hyper holds per connection and direction.
const BUFFER: usize = 64 << 10;
/// For connections to flush and close at the end.
const CLOSING: Duration = Duration::from_secs(2);

/// What connections are told to do.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Serve,
    /// Close when the response in progress is written.
    Close,
    Abort,
}

/// Serves until `shutdown` is ready, then drains: the port is closed, new requests and `/health` on connections
/// that are open get a 503 at once, answers in progress have `limits.drain_time` to finish, then they end with an error event. Stops the engine only if
/// the time ran out; `Handle::drain` has been called in any case.
///
/// Errors: none while serving; failing accepts are retried.
pub async fn serve(listener: TcpListener, app: App, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    let server = Arc::new(Server::new(app));
    let slots = Slots::default();
    let (stage, stages) = watch::channel(Stage::Serve);
    let watching = tokio::spawn(watchdog::watch(server.clone()));
    tokio::select! {
        () = shutdown => {}
        () = accept(&listener, &server, &slots, &stages) => {}
    }
    drop(listener);
    drain(&server).await;
    watching.abort();
    stage.send_replace(Stage::Close);
    if timeout(CLOSING, slots.empty()).await.is_err() {
        stage.send_replace(Stage::Abort);
        slots.empty().await;
    }
    Ok(())
}

async fn drain(server: &Server) {
    server.drain();
    tracing::info!(in_flight = server.live.len(), "draining");
    if timeout(server.app.limits.drain_time, server.live.empty()).await.is_err() {
        tracing::warn!(in_flight = server.live.len(), "ending what did not finish in time");
        server.live.fail_all(&Failure::Shutdown);
        server.app.engine.shutdown();
    }
}

/// Accepts for ever.
async fn accept(
    listener: &TcpListener,
    server: &Arc<Server>,
    slots: &Slots,
    stages: &watch::Receiver<Stage>,
) {
    let limits = &server.app.limits;
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, or the client was faster: both pass.
                tracing::warn!(%error, "accept failed");
                sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        server.metrics.connections.add(1);
        match slots.take(peer.ip(), limits.connections, limits.connections_per_ip) {
            Some(slot) => _ = tokio::spawn(connection(stream, server.clone(), stages.clone(), slot)),
            None => {
                server.metrics.connections_refused.add(1);
                refuse(&stream);
            }
        }
    }
}

/// Best effort: a fresh socket takes these few bytes at once.
pub(crate) fn refuse(stream: &TcpStream) {
    let mut body = Vec::new();
    ApiError::busy().write(&mut body);
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    _ = stream.try_write(&[head.as_bytes(), &body].concat());
}

/// HTTP/1.1 within the limits. What hyper cannot read as a request it answers itself, with a 400, 414 or 431
/// that has no body and closes the connection; it has no hook to write one.
pub(crate) fn protocol(limits: &Limits) -> http1::Builder {
    let mut protocol = http1::Builder::new();
    protocol
        .timer(TokioTimer::new())
        // hyper's timer also runs between requests; `Guarded` has the shorter one for a head.
        .header_read_timeout(limits.idle_time)
        .max_headers(limits.headers)
        .max_header_size(limits.header_bytes)
        .max_buf_size(BUFFER);
    protocol
}

async fn connection(stream: TcpStream, server: Arc<Server>, mut stages: watch::Receiver<Stage>, _slot: Slot) {
    _ = stream.set_nodelay(true);
    let limits = &server.app.limits;
    let phase = Phase::default();
    let socket = TokioIo::new(Guarded::new(stream, phase.clone(), limits));
    let service = service_fn(|request| router::handle(server.clone(), phase.clone(), request));
    let mut serving = pin!(protocol(limits).serve_connection(socket, service));
    loop {
        tokio::select! {
            biased;
            ended = serving.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended");
                }
                return;
            }
            changed = stages.changed() => {
                if changed.is_err() || *stages.borrow() == Stage::Abort {
                    return;
                }
                serving.as_mut().graceful_shutdown();
            }
        }
    }
}
