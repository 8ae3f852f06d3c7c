//! `tokenmill run`: one prompt, answered on the terminal as it is generated.

use crate::{
    args::{self, EngineArgs, ModelArgs},
    generation, models, text, wiring,
};
use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;
use std::{
    io::{IsTerminal, Read, Write},
    sync::{Arc, mpsc},
    time::Instant,
};
use tokenmill_engine::{Event, Output, Request, Usage};
use tokenmill_text::{Chat, ChatTemplate, Detokenizer, Tokenizer};

#[derive(Args)]
pub(crate) struct Run {
    /// What to ask; read from standard input if not given.
    prompt: Option<String>,
    /// A model's name or folder.
    #[arg(long)]
    model: Option<String>,
    /// What the model is told about its role.
    #[arg(long)]
    system: Option<String>,
    /// Continue the text instead of answering it as a chat message.
    #[arg(long)]
    raw: bool,
    /// Tokens to generate at most.
    #[arg(long, default_value_t = 512)]
    max_tokens: u32,
    /// 0 always takes the most likely token; the model's own setting if not given.
    #[arg(long)]
    temperature: Option<f32>,
    /// Seed of the random draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    how: ModelArgs,
}

/// What the engine's thread tells the terminal's.
enum News {
    Token(u32),
    Done(Usage),
    Failed(String),
}

struct Sender(mpsc::Sender<News>);

impl Output for Sender {
    fn deliver(&mut self, event: Event<'_>) -> bool {
        let news = match event {
            Event::Token { token, .. } => News::Token(token),
            Event::Done(usage) => News::Done(usage),
            Event::Failed(failure) => News::Failed(failure.message()),
            Event::Prompt { .. } | Event::Forked { .. } | Event::Finished { .. } => return true,
        };
        self.0.send(news).is_ok()
    }
}

impl Run {
    pub(crate) fn run(self) -> Result<()> {
        let dir = models::resolve(
            &args::model_or_default(self.model.as_ref()),
            self.how.dtype.unwrap_or_default(),
        )?
        .path;
        let (tokenizer, template) = text::open(&dir)?;
        let tokenizer = Arc::new(tokenizer);
        let prompt = self.tokens(&tokenizer, template)?;
        let engine = EngineArgs {
            max_num_seqs: 1,
            max_num_batched_tokens: 512,
            num_speculative_tokens: 0,
            no_enable_prefix_caching: true,
            seed: self.seed,
        };
        let model = wiring::load(&dir, &self.how, &engine)?;
        let (handle, thread) = wiring::start(model, self.how.max_model_len, &engine, Instant::now())?;
        let mut sampling = generation::params(&generation::defaults(&dir)?);
        sampling.temperature = self.temperature.unwrap_or(sampling.temperature);
        sampling.seed = self.seed;
        let stop_tokens = tokenizer.eos_ids().to_vec();
        let request = Request {
            prompt,
            sampling,
            n: 1,
            max_tokens: self.max_tokens,
            stop_tokens,
            ..Request::default()
        };
        let (sender, news) = mpsc::channel();
        let asked = Instant::now();
        handle.submit(request, Box::new(Sender(sender)))?;
        let result = print(&tokenizer, &news, asked);
        handle.shutdown();
        thread.join().map_err(|_| anyhow::anyhow!("the engine panicked"))?;
        result
    }

    fn tokens(&self, tokenizer: &Tokenizer, template: Option<ChatTemplate>) -> Result<Vec<u32>> {
        let text = match &self.prompt {
            Some(text) => text.clone(),
            None => read_standard_input()?,
        };
        let Some(template) = template.filter(|_| !self.raw) else {
            return Ok(tokenizer.encode(&text, true)?);
        };
        let system = self.system.iter().map(|text| json!({ "role": "system", "content": text }));
        let messages: Vec<_> = system.chain([json!({ "role": "user", "content": text })]).collect();
        Ok(tokenizer.encode_chat(
            &template,
            &Chat { messages: &messages, add_generation_prompt: true, ..Chat::default() },
        )?)
    }
}

fn read_standard_input() -> Result<String> {
    if std::io::stdin().is_terminal() {
        bail!("nothing was asked: `tokenmill run \"Why is the sky blue?\"`, or pipe a text in");
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("standard input")?;
    Ok(text)
}

/// Prints tokens as they come, then the speed on standard error.
fn print(tokenizer: &Arc<Tokenizer>, news: &mpsc::Receiver<News>, asked: Instant) -> Result<()> {
    let mut text = Detokenizer::new(tokenizer.clone(), true);
    let mut out = std::io::stdout().lock();
    let mut first = None;
    loop {
        match news.recv().context("the engine stopped")? {
            News::Token(token) => {
                first.get_or_insert_with(Instant::now);
                write!(out, "{}", text.push(token))?;
            }
            News::Failed(message) => bail!("{message}"),
            News::Done(usage) => {
                writeln!(out, "{}", text.flush())?;
                report(&usage, asked, first.unwrap_or(asked));
                return Ok(());
            }
        }
        out.flush()?;
    }
}

fn report(usage: &Usage, asked: Instant, first: Instant) {
    let speed =
        f64::from(usage.completion_tokens.saturating_sub(1)) / first.elapsed().as_secs_f64().max(1e-6);
    tracing::info!(
        "{} prompt tokens, first token after {:.0} ms; {} tokens at {speed:.1} tokens/s",
        usage.prompt_tokens,
        (first - asked).as_secs_f64() * 1e3,
        usage.completion_tokens,
    );
}
