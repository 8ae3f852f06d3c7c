//! What JSON schemas would cost as a policy in WebAssembly: `host/grammar` compiled in, and as the component that
//! `bench/grammar-in-wasm` makes of it, over the same document.
//!
//! `grammar_in_wasm COMPONENT MODEL`, with the folder of SmolLM2. The limits are far above those of a server. The
//! program runs itself again as the process that compiles.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::panic, clippy::unwrap_used)]

#[path = "bench_policy/host.rs"]
mod host;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use host::Tokens;
use serde_json::{Value, json};
use tokenmill_grammar::{ATTRIBUTE, Grammar, Grammars};
use tokenmill_policy::sample::{Attributes, Columns, Knobs, Ragged, Sampler};
use tokenmill_policy::{Host, Services};
use tokenmill_wasm::{Limits, Plugin, Runtime};

const COMPILE: &str = "--compile";
const REPEATS: usize = 9;
const SCHEMA: &str = r#"{"type": "object", "properties": {"id": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{6}$"}, "items": {"type": "array", "minItems": 1, "maxItems": 8, "items": {"type": "object", "properties": {"sku": {"type": "string", "maxLength": 24}, "quantity": {"type": "integer", "minimum": 1, "maximum": 999}, "price": {"type": "number"}, "tags": {"type": "array", "items": {"type": "string"}}}, "required": ["sku", "quantity", "price"], "additionalProperties": false}}, "note": {"anyOf": [{"type": "string"}, {"type": "null"}]}}, "required": ["id", "items", "note"], "additionalProperties": false}"#;
const DOCUMENT: &str = r#"{"id": "TM-004217", "items": [{"sku": "left-handed screwdriver", "quantity": 12, "price": 7.95, "tags": ["tools", "on sale"]}, {"sku": "bolt M6", "quantity": 400, "price": 0.08}], "note": null}"#;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args == [COMPILE] {
        return tokenmill_wasm::compile_worker().unwrap();
    }
    let [component, model] = &args[..] else { return eprintln!("usage: grammar_in_wasm COMPONENT MODEL") };
    let component = std::fs::read(component).unwrap();
    let tokens = Tokens::of(model.as_ref());
    let (ends, document) = (tokens.tokenizer.eos_ids().to_vec(), tokens.tokenize(DOCUMENT));
    let host: Host = Arc::new(tokens);
    let cache = tempfile::tempdir().unwrap();
    let config =
        json!({ "ends": ends, "schema": serde_json::from_str::<Value>(SCHEMA).unwrap() }).to_string();
    let load = |memory: usize| {
        let runtime = runtime(memory, cache.path());
        timed(|| Plugin::load(&runtime, "grammar", &component, &config, host.clone()))
    };
    // The first one compiles the component, too.
    let (_, first) = load(1 << 30);
    let (plugin, configured) = load(1 << 30);
    let plugin = plugin.unwrap();
    let memory = (4..10).map(|power| 1 << power).find(|mib| load(mib << 20).0.is_ok());
    let (grammars, trie) = timed(|| Grammars::new(&*host, &ends).unwrap());
    let schema = serde_json::from_str(SCHEMA).unwrap();
    let (prepared, schema) = timed(|| grammars.prepare(&Grammar::JsonSchema(schema)).unwrap());
    assert_eq!(prepared.attribute(), (ATTRIBUTE.to_owned(), "1".to_owned()));
    let mut times: [Vec<f64>; 2] = Default::default();
    for _ in 0..REPEATS {
        let mut component = plugin.sampler().unwrap();
        let mut native = grammars.sampler();
        for at in 0..document.len() {
            let (ours, time) = timed(|| mask(&mut *native, &document, at, &ends));
            times[0].push(time);
            let (theirs, time) = timed(|| mask(&mut *component, &document, at, &ends));
            // The first token waits for an instance.
            times[1].extend((at > 0).then_some(time));
            assert_eq!(ours, theirs, "the masks of token {at} differ");
        }
    }
    let mean = |times: &[f64]| times.iter().sum::<f64>() / times.len() as f64;
    let median = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let report = json!({
        "vocab": host.vocab(),
        "component_kb": component.len() / 1024,
        "compile_and_configure_ms": first / 1e3,
        "configure_ms": configured / 1e3,
        "native_trie_and_schema_ms": [trie / 1e3, schema / 1e3],
        "instance_fits_in_mib": memory,
        "us_per_token_mean": { "native": mean(&times[0]), "component": mean(&times[1]) },
        "us_per_token_median": { "native": median(&mut times[0]), "component": median(&mut times[1]) },
    });
    println!("{report:#}");
}

/// Without the limits that are in question.
fn runtime(memory: usize, cache: &Path) -> Runtime {
    let limits = Limits {
        sampling: Duration::from_secs(10),
        configure: Duration::from_secs(60),
        memory,
        hostcall_bytes: 64 << 20,
        component_bytes: 64 << 20,
        compile_time: Duration::from_secs(120),
        compile_memory: 4 << 30,
        instances: 16,
        ..Limits::default()
    };
    let compiler = || {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.arg(COMPILE);
        command
    };
    Runtime::new(limits, compiler, Some(cache.join("compiled"))).unwrap()
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let began = Instant::now();
    let result = work();
    (result, began.elapsed().as_secs_f64() * 1e6)
}

/// The mask of the document's token at `at`, after a prompt of two tokens.
fn mask(sampler: &mut dyn Sampler, document: &[u32], at: usize, ends: &[u32]) -> Arc<[u32]> {
    let prompt = [5, 6];
    let new = if at == 0 { &prompt[..] } else { &document[at - 1..at] };
    let asked = Asked(ends);
    let view = Columns {
        ids: &[1],
        requests: &[1],
        tenants: &[0],
        positions: &[(prompt.len() + at) as u32],
        generated: &[at as u32],
        remaining: &[1000],
        scores: &[0.0],
        seeds: &[0],
        accepted: Ragged { starts: &[0, new.len() as u32], values: new },
        assumed: Ragged { starts: &[0, 0], values: &[] },
        attributes: Some(&asked),
        ..Columns::default()
    };
    let mut knobs = Knobs::default();
    sampler.plan(&view, &mut knobs).unwrap();
    knobs.allow.remove(0).1
}

struct Asked<'a>(&'a [u32]);

impl Attributes for Asked<'_> {
    fn attribute(&self, _: usize, key: &str) -> Option<&str> {
        (key == ATTRIBUTE).then_some("1")
    }

    fn stop_tokens(&self, _: usize) -> Cow<'_, [u32]> {
        self.0.into()
    }
}
