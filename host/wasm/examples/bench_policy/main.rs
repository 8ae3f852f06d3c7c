//! What policies in WebAssembly cost; one JSON object on standard output. `cargo xtask bench policy` runs it:
//!
//! `bench_policy COMPONENTS MODEL [PART] [--quick]`, with the folder of components that `cargo xtask plugins` makes
//! and that of SmolLM2; `PART` is one key of the result. `--quick` shows that it runs; its figures are worth nothing.
//!
//! Alternatives are measured in turns, so that a slow minute hits all of them. "Native" is the same policy
//! compiled in. The program runs itself again as the process that compiles.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::panic, clippy::unwrap_used)]

mod compute;
mod figures;
mod guests;
mod host;
mod masks;
mod micro;
mod pace;
mod runaway;
mod whole;

use std::path::PathBuf;

use serde_json::{Map, Value};
use tokenmill_wasm::{Limits, Runtime};

const COMPILE: &str = "--compile";

/// What all measurements need.
struct Bench {
    components: PathBuf,
    model: PathBuf,
    quick: bool,
}

impl Bench {
    fn component(&self, name: &str) -> Vec<u8> {
        let path = self.components.join(format!("{name}.wasm"));
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// `many`, or as many as show that it works.
    fn times(&self, many: usize) -> usize {
        if self.quick { many.min(2) } else { many }
    }
}

type Part = fn(&Bench) -> Value;

fn main() {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    if args == [COMPILE] {
        return tokenmill_wasm::compile_worker().unwrap();
    }
    let quick = args.iter().any(|arg| arg == "--quick");
    args.retain(|arg| arg != "--quick");
    let [components, model, part @ ..] = &args[..] else {
        return eprintln!("usage: bench_policy COMPONENTS MODEL [PART] [--quick]");
    };
    let bench = Bench { components: components.into(), model: model.into(), quick };
    let parts: [(&str, Part); 5] = [
        ("calls", micro::measure),
        ("compute", compute::measure),
        ("engine", whole::measure),
        ("runaway", runaway::measure),
        ("json_schema_masks", masks::measure),
    ];
    let asked = parts.iter().filter(|(name, _)| part.is_empty() || part.iter().any(|part| part == name));
    let mut report = Map::from_iter([("quick".to_owned(), quick.into())]);
    for (name, measure) in asked {
        eprintln!("{name} ...");
        report.insert((*name).to_owned(), measure(&bench));
    }
    println!("{:#}", Value::Object(report));
    _ = std::fs::remove_dir_all(cache());
}

fn runtime(limits: Limits) -> Runtime {
    let compiler = || {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.arg(COMPILE);
        command
    };
    Runtime::new(limits, compiler, Some(cache())).unwrap()
}

/// One folder for all runtimes: what was compiled once is not compiled again.
fn cache() -> PathBuf {
    std::env::temp_dir().join(format!("tokenmill-bench-policy-{}", std::process::id()))
}
