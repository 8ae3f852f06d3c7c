//! `tokenmill serve`: a model behind the OpenAI HTTP API, until a signal ends it.

use crate::{
    admin::AdminArgs,
    args::{self, EngineArgs, ModelArgs},
    generation, models,
    policies::{Chosen, Installer, PolicyArgs, Running},
    services::Vocabulary,
    text, wiring,
};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokenmill_engine::Handle;
use tokenmill_grammar::Grammars;
use tokenmill_http::{App, Card, Limits};
use tokenmill_policy::Host;
use tokenmill_text::{ChatTemplate, Tokenizer};
use tokio::{
    net::{TcpListener, lookup_host},
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

/// Threads that speak HTTP; the rest of the machine computes.
const HTTP_THREADS: usize = 2;
/// Between two looks at whether the engine still runs.
const GLANCE: Duration = Duration::from_millis(200);
/// For the step in progress when the server has ended.
const LAST_STEP: Duration = Duration::from_secs(3);

#[derive(Args)]
pub(crate) struct Serve {
    /// A model's folder, or its name; SmolLM2-135M-Instruct if not given.
    model: Option<String>,
    /// Address to listen on. Set --api-key before you open it to others.
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Clients must send this key as a bearer token; may be given several times.
    #[arg(long, env = "TOKENMILL_API_KEY", hide_env_values = true)]
    api_key: Vec<String>,
    /// What the model is called in requests; the first name is used in answers.
    #[arg(long, num_args = 1..)]
    served_model_name: Vec<String>,
    /// Serve token ids only: the folder needs no tokenizer.
    #[arg(long)]
    skip_tokenizer_init: bool,
    #[command(flatten)]
    how: ModelArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    policies: PolicyArgs,
    #[command(flatten)]
    admin: AdminArgs,
}

impl Serve {
    pub(crate) fn run(self) -> Result<()> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(HTTP_THREADS).enable_all().build()?;
        let chosen = self.policies.resolve()?;
        // The ports first: a taken one should not cost a model's loading time, and probes want an answer.
        let listener = runtime.block_on(listen(&self.host, self.port, "--host"))?;
        let address = listener.local_addr()?;
        let desk = runtime.block_on(self.admin.open(&self.api_key))?;
        let (loaded, wait) = oneshot::channel::<()>();
        let loading = runtime.spawn(async move {
            tokenmill_http::loading(&listener, &Limits::default(), async { _ = wait.await }).await;
            listener
        });
        let asked = args::model_or_default(self.model.as_ref());
        let dir = models::resolve(&asked, self.how.dtype.unwrap_or_default())?.path;
        let app = self.app(&dir, &asked)?;
        let model = wiring::load(&dir, &self.how, &self.engine)?;
        let epoch = Instant::now();
        let (engine, thread) = wiring::start(model, self.how.max_model_len, &self.engine, epoch)?;
        let handle = engine.clone();
        let (app, policies) = app.with(engine, epoch, chosen, desk.is_some())?;
        runtime.block_on(async {
            let signals = Signals::new()?;
            drop(loaded);
            let listener = loading.await?;
            announce(address, &app.card.name, app.tokenizer.is_some());
            let (open, closed) = oneshot::channel::<()>();
            let operator = desk.zip(policies).map(|(desk, policies)| {
                println!("the operator's routes are on http://{}/admin/policies", desk.address);
                tokio::spawn(desk.serve(policies, async { _ = closed.await }))
            });
            let end = async {
                tokio::select! {
                    () = signals.first() => {}
                    () = ended(&thread) => tracing::error!("the engine has stopped, and so does the server"),
                }
                drop(open);
            };
            tokenmill_http::serve(listener, app, end).await.context("the server stopped")?;
            if let Some(operator) = operator {
                operator.await?;
            }
            anyhow::Ok(())
        })?;
        join(thread)?;
        if handle.stats().lost {
            bail!("the device was lost");
        }
        Ok(())
    }

    /// All of the server but its engine.
    fn app(&self, dir: &Path, asked: &str) -> Result<Unstarted> {
        let (tokenizer, template) = match self.skip_tokenizer_init {
            true => (None, None),
            false => {
                let (tokenizer, template) =
                    text::open(dir).context("--skip-tokenizer-init serves a model without its tokenizer")?;
                (Some(Arc::new(tokenizer)), template)
            }
        };
        let mut names = self.served_model_name.clone();
        if names.is_empty() {
            names.push(args::short_name(asked));
        }
        if self.api_key.iter().any(String::is_empty) {
            bail!("--api-key must not be empty");
        }
        let end_tokens = tokenizer.as_ref().map(|tokenizer| tokenizer.eos_ids().to_vec());
        let card = Card { name: names.remove(0), aliases: names, end_tokens: end_tokens.unwrap_or_default() };
        Ok(Unstarted {
            card,
            tokenizer,
            template,
            defaults: generation::defaults(dir)?,
            api_keys: self.api_key.clone(),
        })
    }
}

pub(crate) async fn listen(host: &str, port: u16, flag: &str) -> Result<TcpListener> {
    let wanted = format!("{host}:{port}");
    let none = || format!("{flag} {host}: no such address");
    let address = lookup_host(&wanted).await.with_context(none)?.next().with_context(none)?;
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {wanted}"))
}

struct Unstarted {
    card: Card,
    tokenizer: Option<Arc<Tokenizer>>,
    template: Option<ChatTemplate>,
    defaults: tokenmill_http::Defaults,
    api_keys: Vec<String>,
}

impl Unstarted {
    /// `operated`: policies can be added later.
    fn with(
        self,
        engine: Handle,
        engine_start: Instant,
        chosen: Chosen,
        operated: bool,
    ) -> Result<(App, Option<Arc<Running>>)> {
        let tokens = engine.limits().vocab;
        let host: Host = Arc::new(Vocabulary { tokenizer: self.tokenizer.clone(), tokens });
        let default_sampler = chosen.default_sampler();
        let grammars = match self.tokenizer.is_some() && !self.card.end_tokens.is_empty() {
            true => Some(Grammars::new(&*host, &self.card.end_tokens)?),
            false => None,
        };
        let installer = Installer::new(engine.clone(), host, grammars.clone());
        let policies = chosen.start(installer, operated)?;
        let counted = policies.clone().map(|policies| policies as Arc<dyn tokenmill_http::Policies>);
        let app = App {
            engine,
            engine_start,
            card: self.card,
            tokenizer: self.tokenizer,
            template: self.template,
            template_kwargs: Vec::new(),
            defaults: self.defaults,
            grammars,
            default_sampler,
            policies: counted,
            api_keys: self.api_keys,
            seed: None,
            limits: Limits::default(),
        };
        Ok((app, policies))
    }
}

/// Waits for the end of the engine's thread: after the drain, or because its device is lost or it panicked.
async fn ended(thread: &JoinHandle<()>) {
    while !thread.is_finished() {
        tokio::time::sleep(GLANCE).await;
    }
}

/// A backend that never returns from a call cannot be stopped, only left behind.
fn join(thread: JoinHandle<()>) -> Result<()> {
    let until = Instant::now() + LAST_STEP;
    while !thread.is_finished() {
        if Instant::now() > until {
            bail!("the backend hangs; left behind");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    thread.join().map_err(|_| anyhow::anyhow!("the engine panicked"))
}

/// The first SIGTERM or SIGINT drains; the second ends the process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    async fn first(mut self) {
        self.next().await;
        tracing::info!("finishing what runs; a second signal stops at once");
        tokio::spawn(async move {
            self.next().await;
            std::process::exit(130);
        });
    }
}

fn announce(address: SocketAddr, model: &str, text: bool) {
    println!("{model} is served on http://{address}");
    let (path, body) = if text {
        (
            "chat/completions",
            format!(
                r#"{{"model": "{model}", "messages": [{{"role": "user", "content": "Why is the sky blue?"}}]}}"#
            ),
        )
    } else {
        ("completions", format!(r#"{{"model": "{model}", "prompt": [1, 2, 3], "return_token_ids": true}}"#))
    };
    println!("try: curl http://{address}/v1/{path} -H 'content-type: application/json' -d '{body}'");
}
