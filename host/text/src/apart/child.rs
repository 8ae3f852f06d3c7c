//! The other process: answers until its input ends.
use super::{
    Answer, Task, frame,
    limits::{self, Limit},
};
use crate::{ChatTemplate, TextError, Tokenizer};
use std::{
    io::{self, stdin, stdout},
    path::Path,
};

/// What the process of [`crate::open_apart`] runs: reads tasks from standard input and answers on standard output
/// until that ends. It limits its own memory and processor time first, so call it in a process made for it.
pub fn work(dir: &Path) -> io::Result<()> {
    limits::set(limits::LOAD, limits::memory_in_use()?)?;
    let template = ChatTemplate::from_dir(dir);
    let loaded = limits::memory_in_use()?;
    let (mut input, mut output) = (stdin().lock(), stdout().lock());
    while let Some(task) = frame::read(&mut input, u32::MAX as usize)? {
        let answer = match frame::decode(&task)? {
            Task::Check => check(dir, &template),
            Task::Render(conversation) => {
                limits::set(Limit::render(task.len()), loaded)?;
                match &template {
                    Ok(Some(template)) => template.render(&conversation.chat()).map(Answer::Text),
                    Ok(None) => Err(TextError::Template("there is none".into())),
                    Err(e) => Err(TextError::Template(e.to_string())),
                }
            }
        };
        frame::write(&mut output, &frame::encode(&answer.unwrap_or_else(Answer::Failed))?)?;
    }
    Ok(())
}

fn check(dir: &Path, template: &Result<Option<ChatTemplate>, TextError>) -> Result<Answer, TextError> {
    Tokenizer::from_dir(dir)?.exercise().map_err(|e| TextError::file(&dir.join("tokenizer.json"), e))?;
    match template {
        Ok(template) => Ok(Answer::Checked { template: template.is_some() }),
        Err(TextError::File { path, reason }) => Err(TextError::file(path, reason)),
        Err(e) => Err(TextError::file(dir, e)),
    }
}
