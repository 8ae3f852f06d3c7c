//! Log-probabilities in the two shapes that clients read.

use crate::json;
use tokenmill_text::Tokenizer;

/// A token with its log-probability (the first token of a prompt has none) and the likeliest at its place.
pub(crate) struct Scored<'a> {
    pub(crate) token: u32,
    pub(crate) logprob: Option<f32>,
    pub(crate) top: &'a [(u32, f32)],
}

/// Scored tokens of one choice, kept until the answer is written.
#[derive(Clone, Default)]
pub(crate) struct Scores {
    /// Token, log-probability, number of alternatives in `tops`.
    tokens: Vec<(u32, Option<f32>, usize)>,
    tops: Vec<(u32, f32)>,
}

impl Scores {
    pub(crate) fn push(&mut self, scored: &Scored<'_>) {
        self.tokens.push((scored.token, scored.logprob, scored.top.len()));
        self.tops.extend_from_slice(scored.top);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Scored<'_>> + Clone {
        let mut rest = self.tops.as_slice();
        self.tokens.iter().map(move |&(token, logprob, tops)| {
            let (top, tail) = rest.split_at(tops);
            rest = tail;
            Scored { token, logprob, top }
        })
    }
}

/// `{"content": […]}` of a chat choice.
pub(crate) fn chat<'a>(
    out: &mut Vec<u8>,
    tokenizer: Option<&Tokenizer>,
    scores: impl IntoIterator<Item = Scored<'a>>,
) {
    out.extend_from_slice(b"{\"content\":");
    json::list(out, scores, |out, scored| {
        chat_token(out, tokenizer, scored.token, scored.logprob.unwrap_or(0.0));
        out.extend_from_slice(b",\"top_logprobs\":");
        json::list(out, scored.top, |out, &(token, logprob)| {
            chat_token(out, tokenizer, token, logprob);
            out.push(b'}');
        });
        out.push(b'}');
    });
    out.push(b'}');
}

/// `{"token":…,"logprob":…,"bytes":[…]` without its closing brace.
fn chat_token(out: &mut Vec<u8>, tokenizer: Option<&Tokenizer>, token: u32, logprob: f32) {
    out.extend_from_slice(b"{\"token\":");
    let bytes = tokenizer.and_then(|tokenizer| tokenizer.token_bytes(token));
    json::string(out, &shown(bytes.as_deref(), token));
    out.extend_from_slice(b",\"logprob\":");
    json::logprob(out, logprob);
    out.extend_from_slice(b",\"bytes\":");
    match bytes {
        Some(bytes) => json::list(out, bytes, |out, byte| json::unsigned(out, u64::from(byte))),
        None => out.extend_from_slice(b"null"),
    }
}

/// `{"tokens","token_logprobs","top_logprobs","text_offset"}` of a text completion. `offset` counts
/// characters from the start of the choice's text and moves on.
pub(crate) fn completion<'a>(
    out: &mut Vec<u8>,
    tokenizer: Option<&Tokenizer>,
    scores: impl IntoIterator<Item = Scored<'a>> + Clone,
    offset: &mut usize,
) {
    let text = |token| shown(tokenizer.and_then(|tokenizer| tokenizer.token_bytes(token)).as_deref(), token);
    out.extend_from_slice(b"{\"tokens\":");
    json::list(out, scores.clone(), |out, scored| json::string(out, &text(scored.token)));
    out.extend_from_slice(b",\"token_logprobs\":");
    json::list(out, scores.clone(), |out, scored| match scored.logprob {
        Some(logprob) => json::logprob(out, logprob),
        None => out.extend_from_slice(b"null"),
    });
    out.extend_from_slice(b",\"top_logprobs\":");
    json::list(out, scores.clone(), |out, scored| match scored.logprob {
        Some(logprob) => alternatives(out, &text, &scored, logprob),
        None => out.extend_from_slice(b"null"),
    });
    out.extend_from_slice(b",\"text_offset\":");
    json::list(out, scores, |out, scored| {
        json::unsigned(out, *offset as u64);
        *offset += text(scored.token).chars().count();
    });
    out.push(b'}');
}

/// The likeliest tokens and the one that was drawn, by text. Two tokens may share a text (parts of
/// characters do): the likelier one is shown.
fn alternatives(out: &mut Vec<u8>, text: &impl Fn(u32) -> String, scored: &Scored<'_>, logprob: f32) {
    let drawn = (scored.token, logprob);
    let missing = scored.top.iter().all(|&(token, _)| token != scored.token);
    let mut seen: Vec<String> = Vec::with_capacity(scored.top.len() + 1);
    out.push(b'{');
    for &(token, logprob) in scored.top.iter().chain(missing.then_some(&drawn)) {
        let text = text(token);
        if seen.contains(&text) {
            continue;
        }
        if !seen.is_empty() {
            out.push(b',');
        }
        json::string(out, &text);
        out.push(b':');
        json::logprob(out, logprob);
        seen.push(text);
    }
    out.push(b'}');
}

/// A token alone as text; parts of characters become U+FFFD.
fn shown(bytes: Option<&[u8]>, token: u32) -> String {
    match bytes {
        Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        None => format!("token_id:{token}"),
    }
}
