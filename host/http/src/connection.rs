//! One TCP connection with the timeouts hyper does not have: a request head that trickles in, and a reader
//! that takes nothing.

use crate::limits::Limits;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// Whether a connection is between two requests. Shared by its socket and its handler.
#[derive(Clone, Default)]
pub(crate) struct Phase(Arc<AtomicBool>);

impl Phase {
    /// A request head has arrived; the connection is busy until the guard is dropped.
    pub(crate) fn busy(&self) -> Busy {
        self.0.store(true, Ordering::Relaxed);
        Busy(self.clone())
    }

    fn is_busy(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A request is being answered.
pub(crate) struct Busy(Phase);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Relaxed);
    }
}

/// A timer that is armed and disarmed often and fires hardly ever.
struct Alarm {
    after: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    armed: bool,
}

impl Alarm {
    fn new(after: Duration) -> Self {
        Self { after, sleep: None, armed: false }
    }

    fn arm(&mut self) {
        if self.armed {
            return;
        }
        self.armed = true;
        let at = Instant::now() + self.after;
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(at),
            None => self.sleep = Some(Box::pin(tokio::time::sleep_until(at))),
        }
    }

    fn disarm(&mut self) {
        self.armed = false;
    }

    /// Ready when the time has passed; registers the task otherwise.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match &mut self.sleep {
            Some(sleep) if self.armed => {
                ready!(sleep.as_mut().poll(cx));
                Poll::Ready(io::ErrorKind::TimedOut.into())
            }
            _ => Poll::Pending,
        }
    }
}

/// The socket under hyper.
pub(crate) struct Guarded {
    stream: TcpStream,
    phase: Phase,
    head: Alarm,
    stall: Alarm,
}

impl Guarded {
    pub(crate) fn new(stream: TcpStream, phase: Phase, limits: &Limits) -> Self {
        let (head, stall) = (Alarm::new(limits.header_time), Alarm::new(limits.write_time));
        Self { stream, phase, head, stall }
    }

    /// A write that makes no progress arms the alarm, any progress disarms it.
    fn written(&mut self, result: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if result.is_ready() {
            self.stall.disarm();
            return result;
        }
        self.stall.arm();
        self.stall.poll(cx).map(Err)
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        if self.phase.is_busy() {
            self.head.disarm();
            return result;
        }
        if result.is_ready() {
            if buf.filled().len() > before {
                self.head.arm();
            }
            return result;
        }
        self.head.poll(cx).map(Err)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(result, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(result, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
