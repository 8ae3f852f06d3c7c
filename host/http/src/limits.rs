//! Every bound a client can run into, in one place.

use std::time::Duration;

/// What one client, one request and the whole server may use. Crossing a bound is a 4xx that names it.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of one request body; more is a 413.
    pub body_bytes: usize,
    /// Bytes of all request bodies held at one time; more is a 503.
    pub buffered_bytes: usize,
    /// Header lines of a request; more is a 431.
    pub headers: usize,
    /// Bytes of a request head; more is a 431.
    pub header_bytes: usize,
    /// From the first byte of a request head to its last.
    pub header_time: Duration,
    /// From the end of the head to the end of the body.
    pub body_time: Duration,
    /// After this long a body must have come at `body_rate` since then; slower is a 408.
    pub body_grace: Duration,
    /// Bytes per second.
    pub body_rate: u32,
    /// A kept-alive connection with no request.
    pub idle_time: Duration,
    /// A client that takes no byte of a response for this long is dropped.
    pub write_time: Duration,
    /// A stream with nothing to send for this long sends a comment, so that proxies do not cut it.
    pub keep_alive: Duration,
    /// An engine with work that finishes no step for this long, or for 20 recent steps where that is longer,
    /// counts as hung: `/health` is a 503 until it moves.
    pub hang_time: Duration,
    /// Bytes of generated tokens waiting for one slow reader; beyond it the request is cancelled.
    pub unread_bytes: usize,
    /// From the signal to the error event on what is still streaming.
    pub drain_time: Duration,
    pub connections: usize,
    pub connections_per_ip: usize,
    /// Nesting of a JSON body.
    pub json_depth: usize,
    /// Values inside `messages`.
    pub json_values: usize,
    /// Bytes of one text to tokenise.
    pub text_bytes: usize,
    /// Prompts of one completions request.
    pub prompts: usize,
    /// `n` and `best_of`.
    pub n: u32,
    pub stop_strings: usize,
    pub stop_bytes: usize,
    pub stop_token_ids: usize,
    /// `logprobs` and `top_logprobs`.
    pub logprobs: u32,
    /// sequences × tokens × alternatives of one request.
    pub logprob_values: u64,
    pub logit_bias: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 8 << 20,
            buffered_bytes: 256 << 20,
            headers: 64,
            header_bytes: 32 << 10,
            header_time: Duration::from_secs(10),
            body_time: Duration::from_secs(30),
            body_grace: Duration::from_secs(5),
            body_rate: 1 << 10,
            idle_time: Duration::from_secs(75),
            write_time: Duration::from_secs(30),
            keep_alive: Duration::from_secs(15),
            hang_time: Duration::from_secs(10),
            unread_bytes: 4 << 20,
            drain_time: Duration::from_secs(30),
            connections: 4096,
            connections_per_ip: 256,
            json_depth: 64,
            json_values: 65_536,
            text_bytes: 4 << 20,
            prompts: 1024,
            n: 8,
            stop_strings: 16,
            stop_bytes: 256,
            stop_token_ids: 256,
            logprobs: 20,
            logprob_values: 4 << 20,
            logit_bias: 1024,
        }
    }
}
