//! Bodies: reading one within its bounds, and the two kinds that are written.

use crate::connection::Busy;
use crate::error::ApiError;
use crate::limits::Limits;
use crate::sse::Stream;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Bytes of request bodies held by the whole server.
#[derive(Clone, Default)]
pub(crate) struct Buffered(Arc<AtomicUsize>);

/// A request body; its bytes count against [`Buffered`] until it is dropped.
pub(crate) struct Received {
    pub(crate) bytes: Bytes,
    _held: Held,
}

struct Held {
    total: Buffered,
    bytes: usize,
}

impl Held {
    fn grow(&mut self, by: usize, limit: usize) -> Result<(), ApiError> {
        let before = self.total.0.fetch_add(by, Ordering::Relaxed);
        self.bytes += by;
        if before + by > limit { Err(ApiError::busy()) } else { Ok(()) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.total.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Reads a body. Errors: 413 (also before reading, from Content-Length), 408, 503, 400 for bad framing.
pub(crate) async fn read(body: Incoming, buffered: &Buffered, limits: &Limits) -> Result<Received, ApiError> {
    if body.size_hint().lower() > limits.body_bytes as u64 {
        return Err(ApiError::body_too_large(limits.body_bytes));
    }
    let held = Held { total: buffered.clone(), bytes: 0 };
    collect(body, held, limits).await
}

async fn collect(mut body: Incoming, mut held: Held, limits: &Limits) -> Result<Received, ApiError> {
    let start = Instant::now();
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    loop {
        // What has come buys time for more.
        let earned = Duration::from_secs_f64(held.bytes as f64 / f64::from(limits.body_rate));
        let until = start + limits.body_time.min(limits.body_grace + earned);
        let frame = timeout_at(until, body.frame()).await.map_err(|_| ApiError::body_timeout())?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| ApiError::malformed("the request body is cut or badly framed"))?;
        let Ok(data) = frame.into_data() else { continue };
        held.grow(data.len(), limits.buffered_bytes)?;
        if held.bytes > limits.body_bytes {
            return Err(ApiError::body_too_large(limits.body_bytes));
        }
        if first.is_empty() {
            first = data;
        } else {
            if all.is_empty() {
                all.extend_from_slice(&first);
            }
            all.extend_from_slice(&data);
        }
    }
    let bytes = if all.is_empty() { first } else { all.freeze() };
    Ok(Received { bytes, _held: held })
}

/// A response body.
pub(crate) struct Body {
    content: Content,
    /// Marks the connection idle again when the body is done or dropped.
    _busy: Option<Busy>,
}

enum Content {
    Full(Option<Bytes>),
    Stream(Box<Stream>),
}

impl Body {
    pub(crate) fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { content: Content::Full((!bytes.is_empty()).then_some(bytes)), _busy: None }
    }

    pub(crate) fn stream(stream: Stream) -> Self {
        Self { content: Content::Stream(Box::new(stream)), _busy: None }
    }

    pub(crate) fn holding(self, busy: Busy) -> Self {
        Self { _busy: Some(busy), ..self }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match &mut self.content {
            Content::Full(bytes) => Poll::Ready(bytes.take()),
            Content::Stream(stream) => stream.poll_next(cx),
        };
        next.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.content, Content::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Content::Stream(_) => SizeHint::default(),
        }
    }
}
