//! How long a stream has had nothing to say.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that writes put off. A write only notes its time; the timer moves when it fires, not before.
pub(crate) struct Silence {
    limit: Duration,
    since: Instant,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Silence {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, since: Instant::now(), sleep: None }
    }

    /// Something is said now.
    pub(crate) fn broken(&mut self) {
        self.since = Instant::now();
    }

    /// Ready when nothing was said for the limit.
    pub(crate) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let due = self.since + self.limit;
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(due)));
            ready!(sleep.as_mut().poll(cx));
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(due);
        }
    }
}
