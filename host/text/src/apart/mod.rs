//! Hostile text files are handled in a process apart: the same program, run again with limits.
//!
//! minijinja's fuel bounds instructions and most strings, but not lists inside lists inside lists, which take no
//! memory until they are compared (2^60 steps) or printed (2^60 bytes); the tokenizers crate aborts on some files.
//! No check in this process can promise to find all of that. The kernel can: a process that asks for more memory
//! or processor time than it may have ends, and only that process.
//!
//! The bound holds because (1) a worker sets its limits itself, before it reads any file, and no file or request is
//! code that could raise them; (2) it is given one conversation at a time and its limit grows with that
//! conversation alone; (3) this process reads no answer longer than a fixed multiple of what it sent; (4) a worker
//! whose owner is gone reads the end of its input and ends, and one that is busy then ends by its processor limit.
mod child;
mod frame;
mod limits;
mod workers;

pub use child::work;
pub(crate) use workers::Workers;

use crate::{Chat, ChatTemplate, TextError, Tokenizer};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::{borrow::Cow, path::Path, process::Command};

/// The tokenizer and the chat template of a model directory that nobody vouches for.
///
/// `command` must start a process that calls [`work`] with the same directory and does nothing else; its standard
/// input and output are taken. There tokenizer and template are tried first; the tokenizer is loaded here only once
/// that went well, and templates are rendered there for good.
pub fn open_apart(
    dir: &Path,
    command: impl Fn() -> Command + Send + Sync + 'static,
) -> Result<(Tokenizer, Option<ChatTemplate>), TextError> {
    let workers = Workers::new(command);
    let has_template = workers.check(dir)?;
    let tokenizer = Tokenizer::from_dir(dir)?;
    Ok((tokenizer, has_template.then(|| ChatTemplate::apart(workers))))
}

/// What a worker is asked.
#[derive(Serialize, Deserialize)]
enum Task<'a> {
    /// Load everything, try it, and say whether there is a template.
    Check,
    Render(Conversation<'a>),
}

/// What it answers.
#[derive(Serialize, Deserialize)]
enum Answer {
    Checked { template: bool },
    Text(String),
    Failed(TextError),
}

/// [`Chat`] on its way to a worker.
#[derive(Serialize, Deserialize)]
struct Conversation<'a> {
    messages: Cow<'a, [Value]>,
    tools: Option<Cow<'a, [Value]>>,
    add_generation_prompt: bool,
    continue_final_message: bool,
    extra: Option<Cow<'a, Map<String, Value>>>,
}

impl<'a> Conversation<'a> {
    fn of(chat: &Chat<'a>) -> Self {
        Conversation {
            messages: Cow::Borrowed(chat.messages),
            tools: chat.tools.map(Cow::Borrowed),
            add_generation_prompt: chat.add_generation_prompt,
            continue_final_message: chat.continue_final_message,
            extra: chat.extra.map(Cow::Borrowed),
        }
    }

    fn chat(&self) -> Chat<'_> {
        Chat {
            messages: &self.messages,
            tools: self.tools.as_deref(),
            add_generation_prompt: self.add_generation_prompt,
            continue_final_message: self.continue_final_message,
            extra: self.extra.as_deref(),
        }
    }
}
