//! The chat template of a model, and where it is rendered.
use super::compiled::Compiled;
use crate::{TextError, apart::Workers};
use serde_json::{Map, Value as Json};
use std::path::Path;

/// One conversation and how to render it. `messages` and `tools` are in the shape templates expect
/// ([`crate::prepare_messages`] makes it from OpenAI's).
#[derive(Debug, Clone, Copy, Default)]
pub struct Chat<'a> {
    pub messages: &'a [Json],
    pub tools: Option<&'a [Json]>,
    /// End with the opening of an assistant turn.
    pub add_generation_prompt: bool,
    /// Leave the last message open, so that the model goes on with it.
    pub continue_final_message: bool,
    /// More variables for the template (`enable_thinking`, …).
    pub extra: Option<&'a Map<String, Json>>,
}

/// The chat template of a model.
pub struct ChatTemplate(Place);

enum Place {
    Here(Box<Compiled>),
    Apart(Workers),
}

impl ChatTemplate {
    /// The template of a model directory, rendered in this process: `chat_template.jinja`, else `chat_template` in
    /// tokenizer_config.json (one template, or a list of named ones). `None` where the model has no template.
    ///
    /// Only for directories that are trusted as far as memory goes; others belong to [`crate::open_apart`].
    pub fn from_dir(dir: &Path) -> Result<Option<Self>, TextError> {
        Ok(Compiled::from_dir(dir)?.map(Self::here))
    }

    /// A template from its source. `special_tokens` are variables of the template: `{"bos_token": "<s>", …}`.
    pub fn new(source: &str, special_tokens: &Map<String, Json>) -> Result<Self, TextError> {
        Compiled::new(source, special_tokens).map(Self::here)
    }

    /// The template of the directory that the workers know.
    pub(crate) fn apart(workers: Workers) -> Self {
        ChatTemplate(Place::Apart(workers))
    }

    fn here(compiled: Compiled) -> Self {
        ChatTemplate(Place::Here(Box::new(compiled)))
    }

    /// The prompt text of a conversation.
    pub fn render(&self, chat: &Chat<'_>) -> Result<String, TextError> {
        match &self.0 {
            Place::Here(compiled) => compiled.render(chat),
            Place::Apart(workers) => workers.render(chat),
        }
    }
}
