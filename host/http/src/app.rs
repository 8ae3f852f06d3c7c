//! What the command line wires together, and what every handler sees of it.

use crate::body::Buffered;
use crate::limits::Limits;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::policies::Policies;
use serde_json::Value;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tokenmill_engine::Handle;
use tokenmill_grammar::Grammars;
use tokenmill_text::{ChatTemplate, Tokenizer};
use tokio::sync::Semaphore;

/// The model behind the engine, as clients see it.
#[derive(Clone, Debug)]
pub struct Card {
    /// The name that answers show.
    pub name: String,
    /// Further names that requests may use.
    pub aliases: Vec<String>,
    /// Tokens that end a sequence unless `ignore_eos`.
    pub end_tokens: Vec<u32>,
}

impl Card {
    pub(crate) fn is_named(&self, name: &str) -> bool {
        self.name == name || self.aliases.iter().any(|alias| alias == name)
    }
}

/// Sampling parameters of requests that do not say; `None` is OpenAI's default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Defaults {
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<u32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
}

impl Defaults {
    /// From a parsed `generation_config.json`; keys that are missing or of another type stay `None`.
    pub fn from_generation_config(config: &Value) -> Self {
        let float = |key: &str| config.get(key).and_then(Value::as_f64).map(|value| value as f32);
        Self {
            temperature: float("temperature"),
            top_p: float("top_p"),
            top_k: config.get("top_k").and_then(Value::as_u64).and_then(|value| u32::try_from(value).ok()),
            min_p: float("min_p"),
            repetition_penalty: float("repetition_penalty"),
        }
    }
}

/// Everything [`serve`](crate::serve) needs.
pub struct App {
    pub engine: Handle,
    /// When the engine's clock stood at 0.
    pub engine_start: Instant,
    pub card: Card,
    /// `None`: only token-id prompts are served, and ids are returned.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// `None`: chat completions are refused.
    pub template: Option<ChatTemplate>,
    /// Keys that a request's `chat_template_kwargs` may hold.
    pub template_kwargs: Vec<String>,
    pub defaults: Defaults,
    /// `None`: the form of outputs cannot be constrained.
    pub grammars: Option<Arc<Grammars>>,
    /// The sampling policy of all requests; they can give it arguments, but not choose another.
    pub default_sampler: Option<String>,
    /// Counted on the page of metrics; `None`: none can be loaded.
    pub policies: Option<Arc<dyn Policies>>,
    /// Any of these opens all routes; empty: no key is asked for.
    pub api_keys: Vec<String>,
    /// Requests without a seed draw theirs from this one; `None`: from the system's randomness.
    pub seed: Option<u64>,
    pub limits: Limits,
}

/// The App and what grows while it serves.
pub(crate) struct Server {
    pub(crate) app: App,
    pub(crate) metrics: Metrics,
    pub(crate) live: Live,
    pub(crate) buffered: Buffered,
    /// Long texts are tokenised by at most this many threads.
    pub(crate) tokenising: Arc<Semaphore>,
    pub(crate) started: u64,
    draining: AtomicBool,
    hung: AtomicBool,
    ids: AtomicU64,
    seeds: u64,
    salt: u64,
}

impl Server {
    pub(crate) fn new(app: App) -> Self {
        let random = RandomState::new();
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            metrics: Metrics::default(),
            live: Live::default(),
            buffered: Buffered::default(),
            tokenising: Arc::new(Semaphore::new(threads)),
            started: unix_seconds(),
            draining: AtomicBool::new(false),
            hung: AtomicBool::new(false),
            ids: AtomicU64::new(0),
            seeds: app.seed.unwrap_or_else(|| random.hash_one("seeds")),
            salt: random.hash_one("ids"),
            app,
        }
    }

    pub(crate) fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.app.engine.drain();
    }

    /// Whether the engine has work and does not move.
    pub(crate) fn hung(&self) -> bool {
        self.hung.load(Ordering::Relaxed)
    }

    pub(crate) fn set_hung(&self, hung: bool) {
        self.hung.store(hung, Ordering::Relaxed);
    }

    /// A number that no other request of this server has, and its hard to guess form.
    pub(crate) fn next_id(&self) -> Id {
        let number = self.ids.fetch_add(1, Ordering::Relaxed);
        Id { number, hash: mix(self.salt ^ number) }
    }

    /// The seed of a request that gave none: a function of `--seed` and the request's number.
    pub(crate) fn seed(&self, id: Id) -> u64 {
        mix(self.seeds.wrapping_add(id.number))
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Id {
    number: u64,
    hash: u64,
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}{:08x}", self.hash, self.number)
    }
}

/// splitmix64 (Steele, Lea, Flood 2014).
fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
