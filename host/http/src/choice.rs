//! One choice of an answer: tokens in, text out, until it ends.

use std::sync::Arc;
use tokenmill_engine::FinishReason;
use tokenmill_text::{Detokenizer, StopMatcher, Tokenizer};

/// Why a choice ended, as clients read it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    /// An end token of the model.
    Natural,
    /// One of `stop_token_ids`.
    StopToken(u32),
    /// `stop[i]`.
    StopString(usize),
    Length,
    /// A policy gave the choice up: it is no part of the answer.
    Pruned,
}

impl End {
    pub(crate) fn finish_reason(&self) -> &'static str {
        match self {
            End::Length => "length",
            End::Pruned => "pruned",
            _ => "stop",
        }
    }
}

#[derive(Clone, Default)]
pub(crate) struct Choice {
    /// `None`: ids only.
    text: Option<Text>,
    /// The last token, if it was a stop token.
    stopped_by: Option<u32>,
    pub(crate) tokens: u32,
    pub(crate) end: Option<End>,
}

#[derive(Clone)]
struct Text {
    detokenizer: Detokenizer,
    stops: Option<StopMatcher>,
    include_stop: bool,
}

/// What a choice needs to know of its request.
pub(crate) struct Style<'a> {
    pub(crate) tokenizer: Option<&'a Arc<Tokenizer>>,
    pub(crate) prompt: &'a [u32],
    pub(crate) stops: &'a [String],
    pub(crate) include_stop: bool,
    pub(crate) skip_special: bool,
}

impl Choice {
    pub(crate) fn new(style: &Style<'_>) -> Self {
        let text = style.tokenizer.map(|tokenizer| Text {
            detokenizer: Detokenizer::continuing(tokenizer.clone(), style.prompt, style.skip_special),
            stops: (!style.stops.is_empty()).then(|| StopMatcher::new(style.stops, style.include_stop)),
            include_stop: style.include_stop,
        });
        Self { text, stopped_by: None, tokens: 0, end: None }
    }

    /// Adds a token; appends the text that may be shown now. `is_stop`: the engine ends the branch here.
    pub(crate) fn push(&mut self, token: u32, is_stop: bool, out: &mut String) {
        self.tokens += 1;
        if is_stop {
            self.stopped_by = Some(token);
        }
        let Some(text) = &mut self.text else { return };
        if is_stop && !text.include_stop {
            return;
        }
        let piece = text.detokenizer.push(token);
        match &mut text.stops {
            None => out.push_str(piece),
            Some(stops) => {
                let found = stops.push(piece);
                out.push_str(found.text);
                self.end = found.matched.map(|matched| End::StopString(matched.stop));
            }
        }
    }

    /// The branch is complete; appends the text that was held back. Does nothing after a stop string.
    pub(crate) fn finish(&mut self, reason: FinishReason, end_tokens: &[u32], out: &mut String) {
        if self.end.is_some() {
            return;
        }
        if let Some(text) = &mut self.text {
            let tail = text.detokenizer.flush();
            match &mut text.stops {
                None => out.push_str(tail),
                Some(stops) => {
                    let found = stops.push(tail);
                    out.push_str(found.text);
                    self.end = found.matched.map(|matched| End::StopString(matched.stop));
                    if self.end.is_some() {
                        return;
                    }
                    out.push_str(stops.flush());
                }
            }
        }
        self.end = Some(match (reason, self.stopped_by) {
            (FinishReason::Stop, Some(token)) if !end_tokens.contains(&token) => End::StopToken(token),
            (FinishReason::Length, _) => End::Length,
            (FinishReason::Pruned, _) => End::Pruned,
            _ => End::Natural,
        });
    }
}
