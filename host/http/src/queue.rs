//! From the engine's thread to the task that owns the connection.
//!
//! The engine pushes a few bytes per token and wakes the task only if it waits; the task takes everything that
//! has gathered with one swap of buffers. No text, no JSON and no allocation on the engine's side once the
//! buffers have grown.

use crate::logprobs::Scored;
use std::mem::size_of;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokenmill_engine::{Event, Failure, FinishReason, Output, Usage};

/// Numbers of choices: each prompt's first branches one prompt after the other, then those that a policy
/// forked, as they come.
#[derive(Clone, Copy)]
pub(crate) struct Numbering {
    pub(crate) prompts: u32,
    /// Of each prompt, from the start.
    pub(crate) branches: u32,
}

impl Numbering {
    pub(crate) fn choice(self, prompt: u32, branch: u32) -> u32 {
        if branch < self.branches { prompt * self.branches + branch } else { branch * self.prompts + prompt }
    }

    /// Prompt and branch.
    pub(crate) fn place(self, choice: u32) -> (u32, u32) {
        if choice < self.prompts * self.branches {
            (choice / self.branches, choice % self.branches)
        } else {
            (choice % self.prompts, choice / self.prompts)
        }
    }
}

/// What happened, in order. [`Numbering`] says which branch a choice is.
pub(crate) enum Item {
    Prompt {
        prompt: u32,
        cached_tokens: u32,
        logprobs: Box<[PromptToken]>,
    },
    /// Its `tops` alternatives are the next ones in [`Batch::tops`].
    Token {
        choice: u32,
        token: u32,
        logprob: f32,
        tops: u32,
    },
    /// `choice` begins with what `parent` has.
    Forked {
        choice: u32,
        parent: u32,
    },
    Finished {
        choice: u32,
        reason: FinishReason,
    },
    Done {
        prompt: u32,
        usage: Usage,
    },
    Failed(Box<Failure>),
}

/// A prompt token, its log-probability (the first has none) and the likeliest others.
pub(crate) struct PromptToken {
    pub(crate) token: u32,
    pub(crate) logprob: Option<f32>,
    pub(crate) top: Vec<(u32, f32)>,
}

impl PromptToken {
    pub(crate) fn scored(&self) -> Scored<'_> {
        Scored { token: self.token, logprob: self.logprob, top: &self.top }
    }
}

/// Everything that gathered since the last take.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) items: Vec<Item>,
    pub(crate) tops: Vec<(u32, f32)>,
}

impl Batch {
    fn bytes(&self) -> usize {
        self.items.len() * size_of::<Item>() + self.tops.len() * size_of::<(u32, f32)>()
    }

    pub(crate) fn clear(&mut self) {
        self.items.clear();
        self.tops.clear();
    }
}

/// One HTTP request's queue; each of its prompts has a [`Sink`].
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    limit: usize,
}

#[derive(Default)]
struct Inner {
    batch: Batch,
    waker: Option<Waker>,
    closed: bool,
}

impl Queue {
    /// `limit`: bytes that may wait for the reader.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { inner: Mutex::default(), limit })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code that can panic runs under the lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False: nobody reads any more, or the reader is too far behind.
    fn push(&self, add: impl FnOnce(&mut Batch)) -> bool {
        let mut inner = self.lock();
        if inner.closed {
            return false;
        }
        add(&mut inner.batch);
        let within = inner.batch.bytes() <= self.limit;
        if !within {
            inner.closed = true;
            inner.batch.clear();
            inner
                .batch
                .items
                .push(Item::Failed(Box::new(Failure::Internal("the reader is too slow".into()))));
        }
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
        within
    }

    /// Ends the reading with an error, whatever the engine still does.
    pub(crate) fn fail(&self, failure: Failure) {
        self.push(|batch| batch.items.push(Item::Failed(Box::new(failure))));
    }

    /// The engine's next push is refused.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
    }

    /// Swaps `batch`, which must be empty, for what has gathered.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<()> {
        let mut inner = self.lock();
        if inner.batch.items.is_empty() {
            match &mut inner.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        std::mem::swap(&mut inner.batch, batch);
        Poll::Ready(())
    }
}

/// The engine's end of the queue for one prompt.
pub(crate) struct Sink {
    queue: Arc<Queue>,
    prompt: u32,
    numbering: Numbering,
    ended: bool,
}

impl Sink {
    pub(crate) fn new(queue: Arc<Queue>, prompt: u32, numbering: Numbering) -> Self {
        Self { queue, prompt, numbering, ended: false }
    }
}

impl Output for Sink {
    fn deliver(&mut self, event: Event<'_>) -> bool {
        let prompt = self.prompt;
        let choice = |branch| self.numbering.choice(prompt, branch);
        self.ended = matches!(event, Event::Done(_) | Event::Failed(_));
        self.queue.push(|batch| match event {
            Event::Token { branch, token, logprob, top } => {
                batch.tops.extend_from_slice(top);
                let tops = top.len() as u32;
                batch.items.push(Item::Token { choice: choice(branch), token, logprob, tops });
            }
            Event::Prompt { cached_tokens, logprobs } => {
                let logprobs = logprobs
                    .iter()
                    .map(|l| PromptToken { token: l.token, logprob: l.logprob, top: l.top.clone() })
                    .collect();
                batch.items.push(Item::Prompt { prompt, cached_tokens, logprobs });
            }
            Event::Forked { branch, parent } => {
                batch.items.push(Item::Forked { choice: choice(branch), parent: choice(parent) });
            }
            Event::Finished { branch, reason } => {
                batch.items.push(Item::Finished { choice: choice(branch), reason });
            }
            Event::Done(usage) => batch.items.push(Item::Done { prompt, usage }),
            Event::Failed(failure) => batch.items.push(Item::Failed(Box::new(failure.clone()))),
        })
    }
}

impl Drop for Sink {
    /// The engine's thread is gone: whoever waits must not wait for ever.
    fn drop(&mut self) {
        if !self.ended {
            self.queue.fail(Failure::Shutdown);
        }
    }
}
