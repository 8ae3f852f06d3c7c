use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokenmill_plugin_beam_search::BeamSearch;
use tokenmill_plugin_best_of_n::BestOfN;
use tokenmill_plugin_budget::Budget;
use tokenmill_plugin_dry::Dry;
use tokenmill_plugin_mirostat_v2::MirostatV2;
use tokenmill_plugin_standard::Standard;
use tokenmill_plugin_typical::Typical;
use tokenmill_plugin_watermark::Watermark;
use tokenmill_plugin_xtc::Xtc;
use tokenmill_policy::{Host, Sampler, Services};
use tokenmill_text::Tokenizer;
use tokenmill_wasm::{Limits, Plugin, Runtime};

/// A policy by its folder's name, with the operator's configuration, compiled in.
pub(crate) fn native(name: &str, config: &str, host: Host) -> Box<dyn Sampler> {
    let mut sampler: Box<dyn Sampler> = match name {
        "beam-search" => Box::new(BeamSearch::default()),
        "best-of-n" => Box::new(BestOfN::default()),
        "budget" => Box::new(Budget::default()),
        "dry" => Box::new(Dry::default()),
        "mirostat-v2" => Box::new(MirostatV2::default()),
        "standard" => Box::new(Standard::default()),
        "typical" => Box::new(Typical::default()),
        "watermark" => Box::new(Watermark::default()),
        "xtc" => Box::new(Xtc::default()),
        other => panic!("no policy {other}"),
    };
    sampler.configure(config, host).unwrap();
    sampler
}

/// Compiles each component once. Deadlines are not what these tests are about.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let limits = Limits { sampling: Duration::from_secs(5), instances: 64, ..Limits::default() };
    let cache = tempfile::tempdir().unwrap().keep().join("cache");
    Runtime::new(limits, || Command::new(beside("../policy-compiler")), Some(cache)).unwrap()
});

/// The same policy as a component.
pub(crate) fn component(name: &str, config: &str, host: Host) -> Box<dyn Sampler> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../target/plugins/{name}.wasm"));
    let bytes = std::fs::read(&file)
        .unwrap_or_else(|error| panic!("{}: {error}; run `cargo xtask plugins` first", file.display()));
    Plugin::load(&RUNTIME, name, &bytes, config, host).unwrap().sampler().unwrap()
}

/// A file in the folder of the test's program, or relative to it.
pub(crate) fn beside(file: &str) -> PathBuf {
    std::env::current_exe().unwrap().with_file_name(file)
}

/// The tokens of a model's tokenizer.
pub(crate) struct Tokens {
    pub(crate) vocab: u32,
    pub(crate) tokenizer: Tokenizer,
}

impl Services for Tokens {
    fn log(&self, message: &str) {
        panic!("no policy has anything to complain of: {message}");
    }

    fn vocab(&self) -> u32 {
        self.vocab
    }

    fn token_bytes(&self, first: u32, count: u32) -> (Vec<u32>, Vec<u8>) {
        let (mut starts, mut bytes) = (vec![0], Vec::new());
        for token in first..self.vocab.min(first.saturating_add(count)) {
            bytes.extend(self.tokenizer.token_bytes(token).unwrap_or_default());
            starts.push(bytes.len() as u32);
        }
        (starts, bytes)
    }

    fn tokenize(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode(text, false).unwrap()
    }
}

pub(crate) fn host(vocab: u32, dir: &std::path::Path) -> Host {
    match Tokenizer::from_dir(dir) {
        Ok(tokenizer) => Arc::new(Tokens { vocab, tokenizer }),
        Err(_) => Arc::new(tokenmill_policy::Silent { vocab }),
    }
}
