//! The two answers of OpenAI's API, written by hand: chat completions and text completions, whole and in
//! frames of a stream.

use crate::answer::Tally;
use crate::choice::End;
use crate::job::Job;
use crate::json;
use crate::logprobs::{self, Scored};
use tokenmill_text::Tokenizer;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Chat,
    Completion,
}

impl Shape {
    fn id_prefix(self) -> &'static str {
        match self {
            Shape::Chat => "chatcmpl-",
            Shape::Completion => "cmpl-",
        }
    }

    fn object(self, chunk: bool) -> &'static str {
        match (self, chunk) {
            (Shape::Chat, true) => "chat.completion.chunk",
            (Shape::Chat, false) => "chat.completion",
            (Shape::Completion, _) => "text_completion",
        }
    }

    /// The log-probabilities of a choice; `offset` is where its text stands, in characters.
    pub(crate) fn logprobs<'a>(
        self,
        out: &mut Vec<u8>,
        tokenizer: Option<&Tokenizer>,
        scores: impl IntoIterator<Item = Scored<'a>> + Clone,
        offset: &mut usize,
    ) {
        match self {
            Shape::Chat => logprobs::chat(out, tokenizer, scores),
            Shape::Completion => logprobs::completion(out, tokenizer, scores, offset),
        }
    }
}

/// `{"id":…,"object":…,"created":…,"model":…,"choices":[`
pub(crate) fn head(job: &Job, model: &str, chunk: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(192);
    out.extend_from_slice(b"{\"id\":\"");
    out.extend_from_slice(job.shape.id_prefix().as_bytes());
    out.extend_from_slice(job.id.to_string().as_bytes());
    out.extend_from_slice(b"\",\"object\":\"");
    out.extend_from_slice(job.shape.object(chunk).as_bytes());
    out.extend_from_slice(b"\",\"created\":");
    json::unsigned(&mut out, job.created);
    out.extend_from_slice(b",\"model\":");
    json::string(&mut out, model);
    out.extend_from_slice(b",\"choices\":[");
    out
}

/// `,"finish_reason":…,"stop_reason":…`: `stop_reason` is the stop string, the stop token or null, as in vLLM.
pub(crate) fn end(out: &mut Vec<u8>, job: &Job, end: &End) {
    out.extend_from_slice(b",\"finish_reason\":");
    json::string(out, end.finish_reason());
    out.extend_from_slice(b",\"stop_reason\":");
    match end {
        End::StopToken(token) => json::unsigned(out, u64::from(*token)),
        End::StopString(i) => json::optional_string(out, job.common.stops.get(*i).map(String::as_str)),
        End::Natural | End::Length | End::Pruned => out.extend_from_slice(b"null"),
    }
}

pub(crate) fn ids(out: &mut Vec<u8>, name: &str, ids: &[u32]) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    json::list(out, ids, |out, &id| json::unsigned(out, u64::from(id)));
}

/// `{"prompt_tokens":…,"completion_tokens":…,"total_tokens":…,"prompt_tokens_details":{"cached_tokens":…}}`
pub(crate) fn usage(out: &mut Vec<u8>, tally: Tally) {
    out.extend_from_slice(b"{\"prompt_tokens\":");
    json::unsigned(out, tally.prompt);
    out.extend_from_slice(b",\"completion_tokens\":");
    json::unsigned(out, tally.completion);
    out.extend_from_slice(b",\"total_tokens\":");
    json::unsigned(out, tally.prompt + tally.completion);
    out.extend_from_slice(b",\"prompt_tokens_details\":{\"cached_tokens\":");
    json::unsigned(out, tally.cached);
    out.extend_from_slice(b"}}");
}

/// The text of an echoed prompt.
pub(crate) fn echoed(job: &Job, prompt: usize, tokenizer: Option<&Tokenizer>) -> String {
    let prompt = &job.prompts[prompt];
    match (&prompt.text, tokenizer) {
        (Some(text), _) => text.clone(),
        (None, Some(tokenizer)) => tokenizer.decode(&prompt.ids, false).unwrap_or_default(),
        (None, None) => String::new(),
    }
}
