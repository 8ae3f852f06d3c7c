//! Where components run.

use std::process::Command;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokenmill_policy::{Host, Services};
use tokenmill_wasm::{Limits, Runtime};

pub(crate) const VOCAB: u32 = 40;

/// With a cache, in a folder that lives as long as the process.
pub(crate) static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder").keep();
    runtime(Some(folder.join("compiled")))
});

/// Without one: what libFuzzer makes is compiled once.
pub(crate) static UNCACHED: LazyLock<Runtime> = LazyLock::new(|| runtime(None));

fn runtime(cache: Option<std::path::PathBuf>) -> Runtime {
    // The machine may be busy, and deadlines have tests of their own.
    let patient = Duration::from_millis(100);
    let limits = Limits { instances: 16, sampling: patient, scheduling: patient, ..Limits::default() };
    Runtime::new(limits, compiler, cache).expect("the runtime")
}

/// This program, which calls [`tokenmill_wasm::compile_worker`] when it is told to; under libFuzzer nobody starts it.
fn compiler() -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.arg("compile");
    command
}

struct Tokens;

impl Services for Tokens {
    fn log(&self, _: &str) {}

    fn vocab(&self) -> u32 {
        VOCAB
    }

    fn token_bytes(&self, first: u32, count: u32) -> (Vec<u32>, Vec<u8>) {
        let count = VOCAB.saturating_sub(first).min(count);
        ((0..=count).collect(), vec![b'x'; count as usize])
    }

    fn tokenize(&self, text: &str) -> Vec<u32> {
        text.bytes().map(|byte| u32::from(byte) % VOCAB).collect()
    }
}

pub(crate) fn host() -> Host {
    Arc::new(Tokens)
}
