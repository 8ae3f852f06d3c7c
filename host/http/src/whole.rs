//! An answer in one piece.

use crate::answer::{Answer, Reader, Tally};
use crate::app::Server;
use crate::choice::End;
use crate::error::ApiError;
use crate::job::Job;
use crate::json;
use crate::logprobs::{Scored, Scores};
use crate::queue::{Numbering, PromptToken};
use crate::shape::{self, Shape};
use std::future::poll_fn;
use std::task::Poll;
use tokenmill_text::Tokenizer;

/// Waits for the end of the answer and writes it.
pub(crate) async fn collect(mut answer: Answer) -> Result<Vec<u8>, ApiError> {
    let choices = answer.job.prompts.len() * answer.job.best_of as usize;
    let mut collector = Collector { choices: (0..choices).map(|_| Collected::default()).collect() };
    poll_fn(|cx| {
        loop {
            match answer.poll(cx, &mut collector) {
                Poll::Ready(Ok(false)) => {}
                Poll::Ready(Ok(true)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await?;
    Ok(collector.write(&answer.server, &answer.job, answer.tally))
}

#[derive(Clone, Default)]
struct Collected {
    text: String,
    ids: Vec<u32>,
    scores: Scores,
    /// Sum of the log-probabilities, to rank `best_of`.
    sum: f64,
    end: Option<End>,
}

impl Collected {
    /// Log-probability / length^penalty. With 1 it is the mean per token, by which OpenAI ranks `best_of`.
    fn score(&self, penalty: f64) -> f64 {
        self.sum / (self.ids.len().max(1) as f64).powf(penalty)
    }
}

struct Collector {
    choices: Vec<Collected>,
}

impl Reader for Collector {
    fn prompt(&mut self, job: &Job, prompt: usize, scores: &[PromptToken], _: Tally) {
        let branches = job.best_of as usize;
        for choice in &mut self.choices[prompt * branches..(prompt + 1) * branches] {
            for token in scores {
                choice.scores.push(&token.scored());
            }
        }
    }

    fn token(&mut self, job: &Job, choice: usize, text: &str, token: &Scored<'_>, _: Tally) {
        let choice = &mut self.choices[choice];
        choice.text.push_str(text);
        choice.ids.push(token.token);
        choice.sum += f64::from(token.logprob.unwrap_or(0.0));
        if job.logprobs.is_some() {
            choice.scores.push(token);
        }
    }

    fn fork(&mut self, choice: usize, parent: usize) -> Result<(), ApiError> {
        if choice >= self.choices.len() {
            self.choices.resize_with(choice + 1, Collected::default);
        }
        self.choices[choice] = self.choices[parent].clone();
        Ok(())
    }

    fn finish(&mut self, _: &Job, choice: usize, text: &str, end: &End, _: Tally) {
        let choice = &mut self.choices[choice];
        choice.text.push_str(text);
        choice.end = Some(end.clone());
    }
}

impl Collector {
    fn write(&self, server: &Server, job: &Job, tally: Tally) -> Vec<u8> {
        let tokenizer = server.app.tokenizer.as_deref();
        let mut out = shape::head(job, &server.app.card.name, false);
        let shown = job.common.n as usize;
        let numbering = Numbering { prompts: job.prompts.len() as u32, branches: job.best_of };
        let mut first = true;
        for prompt in 0..job.prompts.len() {
            let is_shown = |(at, choice): &(usize, &Collected)| {
                let ended = choice.end.as_ref().is_some_and(|end| *end != End::Pruned);
                ended && numbering.place(*at as u32).0 as usize == prompt
            };
            let choices = self.choices.iter().enumerate().filter(is_shown);
            let mut ranked: Vec<&Collected> = choices.map(|(_, choice)| choice).collect();
            if let Some(penalty) = job.ranking() {
                ranked.sort_by(|a, b| b.score(penalty).total_cmp(&a.score(penalty)));
            }
            for (i, choice) in ranked.into_iter().take(shown).enumerate() {
                let index = prompt * shown + i;
                if !std::mem::replace(&mut first, false) {
                    out.push(b',');
                }
                out.extend_from_slice(b"{\"index\":");
                json::unsigned(&mut out, index as u64);
                choice.write(&mut out, job, prompt, tokenizer);
                out.push(b'}');
            }
        }
        out.extend_from_slice(b"],\"usage\":");
        shape::usage(&mut out, tally);
        if job.shape == Shape::Chat && job.common.return_ids {
            shape::ids(&mut out, "prompt_token_ids", &job.prompts[0].ids);
        }
        out.push(b'}');
        out
    }
}

impl Collected {
    fn write(&self, out: &mut Vec<u8>, job: &Job, prompt: usize, tokenizer: Option<&Tokenizer>) {
        match job.shape {
            Shape::Chat => {
                out.extend_from_slice(b",\"message\":{\"role\":\"assistant\",\"content\":");
                json::string(out, &self.text);
                out.extend_from_slice(b",\"refusal\":null}");
            }
            Shape::Completion => {
                out.extend_from_slice(b",\"text\":");
                if job.echo {
                    json::string(out, &(shape::echoed(job, prompt, tokenizer) + &self.text));
                } else {
                    json::string(out, &self.text);
                }
            }
        }
        out.extend_from_slice(b",\"logprobs\":");
        match job.logprobs {
            Some(_) => job.shape.logprobs(out, tokenizer, self.scores.iter(), &mut 0),
            None => out.extend_from_slice(b"null"),
        }
        shape::end(out, job, self.end.as_ref().unwrap_or(&End::Length));
        if job.common.return_ids {
            shape::ids(out, "token_ids", &self.ids);
            if job.shape == Shape::Completion {
                shape::ids(out, "prompt_token_ids", &job.prompts[prompt].ids);
            }
        }
    }
}
