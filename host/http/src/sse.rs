//! A streamed answer: one frame per token, formatted here and nowhere earlier; everything that gathered
//! since the last wake-up goes to the socket at once.

use crate::answer::{Answer, Reader, Tally};
use crate::app::Server;
use crate::choice::End;
use crate::error::ApiError;
use crate::job::Job;
use crate::json;
use crate::logprobs::Scored;
use crate::params::Streaming;
use crate::queue::PromptToken;
use crate::shape::{self, Shape};
use crate::silence::Silence;
use bytes::Bytes;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// A comment, as the format knows them: clients skip it, proxies see traffic.
const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

pub(crate) struct Stream {
    answer: Answer,
    frames: Frames,
    silence: Silence,
    ended: bool,
}

impl Stream {
    pub(crate) fn new(answer: Answer, streaming: Streaming) -> Self {
        let frames = Frames::new(&answer.job, answer.server.clone(), streaming);
        let silence = Silence::new(answer.server.app.limits.keep_alive);
        Self { answer, frames, silence, ended: false }
    }

    /// The next bytes of the stream; `None` at its end. A defect in here ends this stream alone, with an error
    /// event.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let next = catch_unwind(AssertUnwindSafe(|| self.poll_frames(cx)));
        let next = next.unwrap_or_else(|_| {
            self.ended = true;
            self.answer.server.metrics.panics.add(1);
            // The last frame may be half written.
            self.frames.out.clear();
            self.frames.error(&ApiError::internal());
            Poll::Ready(())
        });
        if next.is_pending() {
            ready!(self.silence.poll_over(cx));
            self.frames.out.extend_from_slice(KEEP_ALIVE);
        }
        self.silence.broken();
        self.answer.server.metrics.frames.add(std::mem::take(&mut self.frames.count));
        Poll::Ready(Some(Bytes::from(self.frames.take())))
    }

    /// Ready when there is something to send.
    fn poll_frames(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match ready!(self.answer.poll(cx, &mut self.frames)) {
                Ok(false) if self.frames.out.is_empty() => continue,
                Ok(false) => return Poll::Ready(()),
                Ok(true) => self.frames.last(self.answer.tally),
                Err(error) => self.frames.error(&error),
            }
            self.ended = true;
            return Poll::Ready(());
        }
    }
}

/// Writes frames into one buffer.
struct Frames {
    server: Arc<Server>,
    shape: Shape,
    streaming: Streaming,
    /// Of every frame: `data: {…"choices":[`
    head: Vec<u8>,
    out: Vec<u8>,
    count: u64,
    /// Characters of text that each choice has had, for `text_offset`.
    offsets: Vec<usize>,
}

impl Frames {
    fn new(job: &Job, server: Arc<Server>, streaming: Streaming) -> Self {
        let mut head = b"data: ".to_vec();
        head.append(&mut shape::head(job, &server.app.card.name, true));
        let offsets = vec![0; job.prompts.len() * job.best_of as usize];
        Self { server, shape: job.shape, streaming, head, out: Vec::new(), count: 0, offsets }
    }

    fn take(&mut self) -> Vec<u8> {
        let size = self.out.len();
        std::mem::replace(&mut self.out, Vec::with_capacity(size))
    }

    /// `data: {…"choices":[{"index":N`
    fn open(&mut self, choice: usize) {
        self.count += 1;
        self.out.extend_from_slice(&self.head);
        self.out.extend_from_slice(b"{\"index\":");
        json::unsigned(&mut self.out, choice as u64);
    }

    /// `,"delta":{"content":…}` or `,"text":…`; no text is an empty delta.
    fn text(&mut self, text: Option<&str>) {
        match (self.shape, text) {
            (Shape::Chat, None) => self.out.extend_from_slice(b",\"delta\":{}"),
            (Shape::Chat, Some(text)) => {
                self.out.extend_from_slice(b",\"delta\":{\"content\":");
                json::string(&mut self.out, text);
                self.out.push(b'}');
            }
            (Shape::Completion, text) => {
                self.out.extend_from_slice(b",\"text\":");
                json::string(&mut self.out, text.unwrap_or(""));
            }
        }
    }

    /// Ends the choice and the frame.
    fn close(&mut self, tally: Tally) {
        self.out.extend_from_slice(b"}]");
        self.usage(tally);
    }

    /// Ends the frame, with `usage` where it was asked for.
    fn usage(&mut self, tally: Tally) {
        if self.streaming.continuous_usage {
            self.out.extend_from_slice(b",\"usage\":");
            shape::usage(&mut self.out, tally);
        } else if self.streaming.include_usage {
            self.out.extend_from_slice(b",\"usage\":null");
        }
        self.out.extend_from_slice(b"}\n\n");
    }

    fn last(&mut self, tally: Tally) {
        if self.streaming.include_usage {
            self.count += 1;
            self.out.extend_from_slice(&self.head);
            self.out.extend_from_slice(b"],\"usage\":");
            shape::usage(&mut self.out, tally);
            self.out.extend_from_slice(b"}\n\n");
        }
        self.out.extend_from_slice(b"data: [DONE]\n\n");
    }

    /// The answer ends early: clients raise the error they read here.
    fn error(&mut self, error: &ApiError) {
        self.out.extend_from_slice(b"data: ");
        error.write(&mut self.out);
        self.out.extend_from_slice(b"\n\ndata: [DONE]\n\n");
    }

    /// The role of a chat answer's author, and the ids of its prompt.
    fn opening_chat(&mut self, job: &Job, choice: usize, tally: Tally) {
        self.open(choice);
        self.out.extend_from_slice(b",\"delta\":{\"role\":\"assistant\",\"content\":\"\"}");
        self.out.extend_from_slice(b",\"logprobs\":null,\"finish_reason\":null}]");
        if job.common.return_ids {
            shape::ids(&mut self.out, "prompt_token_ids", &job.prompts[0].ids);
        }
        self.usage(tally);
    }
}

impl Reader for Frames {
    fn prompt(&mut self, job: &Job, prompt: usize, scores: &[PromptToken], tally: Tally) {
        let branches = job.best_of as usize;
        for choice in prompt * branches..(prompt + 1) * branches {
            match self.shape {
                Shape::Chat => self.opening_chat(job, choice, tally),
                Shape::Completion if job.echo || job.common.return_ids => {
                    self.opening_completion(job, prompt, choice, scores, tally);
                }
                Shape::Completion => {}
            }
        }
    }

    fn token(&mut self, job: &Job, choice: usize, text: &str, token: &Scored<'_>, tally: Tally) {
        let silent = job.logprobs.is_none() && !job.common.return_ids && !self.streaming.continuous_usage;
        if text.is_empty() && silent {
            return;
        }
        self.open(choice);
        self.text(Some(text));
        match job.logprobs {
            None => self.out.extend_from_slice(b",\"logprobs\":null,\"finish_reason\":null"),
            Some(_) => {
                self.out.extend_from_slice(b",\"logprobs\":");
                let tokenizer = self.server.app.tokenizer.as_deref();
                let one =
                    [token].into_iter().map(|t| Scored { token: t.token, logprob: t.logprob, top: t.top });
                self.shape.logprobs(&mut self.out, tokenizer, one, &mut self.offsets[choice]);
                self.out.extend_from_slice(b",\"finish_reason\":null");
            }
        }
        if job.common.return_ids {
            shape::ids(&mut self.out, "token_ids", &[token.token]);
        }
        self.close(tally);
    }

    fn fork(&mut self, _: usize, _: usize) -> Result<(), ApiError> {
        // What was sent of one choice cannot be sent again as another's, nor taken back when it is given up.
        Err(ApiError::invalid(
            "stream",
            "the policy of this request weighs branches, which cannot be streamed",
        ))
    }

    fn finish(&mut self, job: &Job, choice: usize, text: &str, end: &End, tally: Tally) {
        if !text.is_empty() {
            self.open(choice);
            self.text(Some(text));
            self.out.extend_from_slice(b",\"logprobs\":null,\"finish_reason\":null");
            self.close(tally);
        }
        self.open(choice);
        self.text(None);
        self.out.extend_from_slice(b",\"logprobs\":null");
        shape::end(&mut self.out, job, end);
        self.close(tally);
    }
}

impl Frames {
    /// The echoed prompt, its scores and its ids.
    fn opening_completion(
        &mut self,
        job: &Job,
        prompt: usize,
        choice: usize,
        scores: &[PromptToken],
        tally: Tally,
    ) {
        let server = self.server.clone();
        let tokenizer = server.app.tokenizer.as_deref();
        self.open(choice);
        let text = if job.echo { shape::echoed(job, prompt, tokenizer) } else { String::new() };
        self.text(Some(&text));
        self.out.extend_from_slice(b",\"logprobs\":");
        if scores.is_empty() {
            self.out.extend_from_slice(b"null");
        } else {
            let scores = scores.iter().map(PromptToken::scored);
            self.shape.logprobs(&mut self.out, tokenizer, scores, &mut self.offsets[choice]);
        }
        self.out.extend_from_slice(b",\"finish_reason\":null");
        if job.common.return_ids {
            shape::ids(&mut self.out, "prompt_token_ids", &job.prompts[prompt].ids);
        }
        self.close(tally);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use std::future::poll_fn;
    use std::time::Duration;

    async fn rest(stream: &mut Stream) -> String {
        let mut all = Vec::new();
        while let Some(bytes) = poll_fn(|cx| stream.poll_next(cx)).await {
            all.extend_from_slice(&bytes);
        }
        String::from_utf8(all).unwrap()
    }

    fn stream(server: &Arc<Server>) -> Stream {
        let body = br#"{"prompt": [1, 2], "max_tokens": 3, "logprobs": 1, "stream": true}"#;
        let job = Job::completion(body, server).unwrap();
        let streaming = job.common.stream.unwrap();
        Stream::new(Answer::start(server.clone(), job, &testing::caller()).unwrap(), streaming)
    }

    #[tokio::test]
    async fn a_panic_ends_its_stream_with_an_error_event() {
        let server = testing::server("", |_| {});
        let (mut broken, mut sound) = (stream(&server), stream(&server));
        // A state that no code leads to: the first token's offset is looked up in vain.
        broken.frames.offsets.clear();
        let text = rest(&mut broken).await;
        // The prompt's frame may have been sent before.
        let last = text.strip_suffix("\n\ndata: [DONE]\n\n").and_then(|text| text.rsplit("\n\n").next());
        let event = "data: {\"error\":{\"message\":\"internal error\"";
        assert!(last.is_some_and(|last| last.starts_with(event)), "{text}");
        let page = crate::metrics::page(&server);
        assert!(page.contains("tokenmill_panics_total{model_name=\"test\"} 1\n"), "{page}");
        let text = rest(&mut sound).await;
        assert!(text.contains("\"finish_reason\":\"length\"") && !text.contains("error"), "{text}");
    }

    #[tokio::test]
    async fn a_silent_stream_sends_comments() {
        let short = Duration::from_millis(20);
        let server = testing::server("step_us=200000", |limits| limits.keep_alive = short);
        let text = rest(&mut stream(&server)).await;
        assert!(text.starts_with(": keep-alive\n\n"), "{text}");
        let data: Vec<_> = text.split_terminator("\n\n").filter(|frame| !frame.starts_with(':')).collect();
        assert!(data.iter().all(|frame| frame.starts_with("data: ")), "{text}");
        assert_eq!(data.last(), Some(&"data: [DONE]"));
    }
}
