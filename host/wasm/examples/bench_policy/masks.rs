//! Masks of JSON schemas on a real vocabulary: the sampler of `host/grammar` beside llguidance alone.
//!
//! Both follow the same document token by token. Ours is `plan` for one row: the view's new token, llguidance's mask,
//! the end tokens, the mask as the engine takes it. Alone is `consume_token` and `compute_mask_or_eos`.
//!
//! A schema's first request fills the caches of its lexer, which clones of a matcher share: `host/grammar` keeps one
//! for each of the last schemas and clones it. So there are two measurements, with the same on both sides: the first
//! request of a schema that is new, and later ones, which clone what the first has left.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};
use tokenmill_grammar::{ATTRIBUTE, Grammar, Grammars, Prepared};
use tokenmill_policy::Services;
use tokenmill_policy::sample::{Attributes, Columns, Knobs, Ragged, Sampler};
use toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

use crate::Bench;
use crate::figures::{mean, percentile, spread};
use crate::host::Tokens;

const REPEATS: usize = 9;

/// Name, schema, documents that follow it.
const SCHEMAS: [(&str, &str, &[&str]); 3] = [
    (
        "flat record",
        r#"{"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 120}, "email": {"type": "string"}, "active": {"type": "boolean"}, "role": {"enum": ["admin", "editor", "reader"]}}, "required": ["name", "age", "email", "active", "role"], "additionalProperties": false}"#,
        &[
            r#"{"name": "Ada Lovelace", "age": 36, "email": "ada@analytical.example", "active": true, "role": "admin"}"#,
            r#"{"name": "Jean-Baptiste Emanuel Zorg", "age": 61, "email": "zorg@industries.example", "active": false, "role": "reader"}"#,
        ],
    ),
    (
        "nested order",
        r#"{"type": "object", "properties": {"id": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{6}$"}, "items": {"type": "array", "minItems": 1, "maxItems": 8, "items": {"type": "object", "properties": {"sku": {"type": "string", "maxLength": 24}, "quantity": {"type": "integer", "minimum": 1, "maximum": 999}, "price": {"type": "number"}, "tags": {"type": "array", "items": {"type": "string"}}}, "required": ["sku", "quantity", "price"], "additionalProperties": false}}, "note": {"anyOf": [{"type": "string"}, {"type": "null"}]}}, "required": ["id", "items", "note"], "additionalProperties": false}"#,
        &[
            r#"{"id": "TM-004217", "items": [{"sku": "left-handed screwdriver", "quantity": 12, "price": 7.95, "tags": ["tools", "on sale"]}, {"sku": "bolt M6", "quantity": 400, "price": 0.08}], "note": null}"#,
            r#"{"id": "AB-990001", "items": [{"sku": "desk lamp", "quantity": 1, "price": 39.5, "tags": []}], "note": "Please ring twice; the bell on the second floor is broken."}"#,
        ],
    ),
    (
        "recursive tree of tool calls",
        r##"{"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "properties": {"tool": {"enum": ["search", "read_file", "write_file", "run"]}, "arguments": {"type": "object", "additionalProperties": {"type": ["string", "integer", "boolean"]}}, "then": {"type": "array", "items": {"$ref": "#/$defs/node"}}}, "required": ["tool", "arguments", "then"], "additionalProperties": false}}}"##,
        &[
            r#"{"tool": "search", "arguments": {"query": "how many bits are in a token mask", "limit": 10, "exact": false}, "then": [{"tool": "read_file", "arguments": {"path": "src/mask.rs", "from": 1}, "then": []}, {"tool": "run", "arguments": {"command": "cargo test --release"}, "then": [{"tool": "write_file", "arguments": {"path": "notes.txt", "text": "49152 bits, which are 1536 words."}, "then": []}]}]}"#,
        ],
    ),
];

pub(crate) fn measure(on: &Bench) -> Value {
    let host = Tokens::of(&on.model);
    let ends = host.tokenizer.eos_ids().to_vec();
    let alone = factory(&host, ends[0]);
    let of_schema = |(name, schema, documents): &(&str, &str, &[&str])| {
        let schema: Value = serde_json::from_str(schema).unwrap();
        let documents: Vec<Vec<u32>> = documents.iter().map(|text| host.tokenize(text)).collect();
        let [mut first, mut later] = [Times::default(), Times::default()];
        for _ in 0..on.times(REPEATS) {
            let grammars = Grammars::new(&host, &ends).unwrap();
            let both = Both::new(&grammars, &alone, &schema);
            first.add(documents.iter().flat_map(|tokens| both.follow(tokens, &ends)));
            later.add(documents.iter().flat_map(|tokens| both.follow(tokens, &ends)));
        }
        let mut figures = json!({ "first_request": first.json(), "later_requests": later.json() });
        figures["tokens"] = json!(documents.iter().map(Vec::len).sum::<usize>());
        figures["schema"] = schema;
        ((*name).to_owned(), figures)
    };
    let schemas: serde_json::Map<_, _> = SCHEMAS.iter().map(of_schema).collect();
    json!({ "vocab": host.vocab, "unit": "us/token", "schemas": schemas })
}

/// By repeat.
#[derive(Default)]
struct Times {
    mean: [Vec<f64>; 2],
    p99: [Vec<f64>; 2],
}

impl Times {
    fn add(&mut self, tokens: impl Iterator<Item = [f64; 2]>) {
        let tokens: Vec<[f64; 2]> = tokens.collect();
        for side in [0, 1] {
            let times: Vec<f64> = tokens.iter().map(|both| both[side]).collect();
            self.mean[side].push(mean(&times));
            self.p99[side].push(percentile(&times, 99));
        }
    }

    fn json(&self) -> Value {
        let side = |at: usize| json!({ "mean": spread(&self.mean[at]), "p99": spread(&self.p99[at]) });
        let over: Vec<f64> =
            self.mean[0].iter().zip(&self.mean[1]).map(|(ours, alone)| ours - alone).collect();
        json!({ "ours": side(0), "llguidance": side(1), "overhead_mean": spread(&over) })
    }
}

/// llguidance over the same vocabulary, with the same limits.
fn factory(host: &Tokens, end: u32) -> ParserFactory {
    let word = |token| match token == end {
        true => b"\xff<end>".to_vec(),
        false => host.bytes(token),
    };
    let words: Vec<Vec<u8>> = (0..host.vocab).map(word).collect();
    let trie = TokTrie::from(&TokRxInfo::new(host.vocab, end), &words);
    let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let mut factory = ParserFactory::new_simple(&environment).unwrap();
    factory.quiet();
    factory.limits_mut().verbose_errors = false;
    factory.limits_mut().max_lexer_states = 20_000;
    factory
}

/// A schema that was compiled anew, for ours and for llguidance alone.
struct Both<'a> {
    grammars: &'a Arc<Grammars>,
    prepared: Prepared,
    alone: Matcher,
}

impl<'a> Both<'a> {
    fn new(grammars: &'a Arc<Grammars>, factory: &ParserFactory, schema: &Value) -> Self {
        let prepared = grammars.prepare(&Grammar::JsonSchema(schema.clone())).unwrap();
        let mut schema = schema.clone();
        schema["x-guidance"] = json!({ "whitespace_pattern": " ?" });
        let mut alone = Matcher::new(factory.create_parser(TopLevelGrammar::from_json_schema(schema)));
        // As `prepare` does.
        alone.compute_mask().unwrap();
        Self { grammars, prepared, alone }
    }

    /// Microseconds of ours and of llguidance alone, for each token of a document.
    fn follow(&self, tokens: &[u32], ends: &[u32]) -> Vec<[f64; 2]> {
        let mut ours = Ours { sampler: self.grammars.sampler(), number: self.prepared.attribute().1, ends };
        let mut alone = self.alone.clone();
        let mut times = Vec::new();
        for at in 0..tokens.len() {
            let alone_first = at % 2 == 0;
            let before = alone_first.then(|| time(|| mask(&mut alone, tokens, at)));
            let (allowed, our_time) = time(|| ours.mask(tokens, at));
            let (expected, time) = before.unwrap_or_else(|| time(|| mask(&mut alone, tokens, at)));
            assert!(bit(&allowed, tokens[at]), "a document does not follow its schema at token {at}");
            // llguidance may have a word more, beyond the vocabulary.
            let same = inner(&allowed, ends) == inner(&expected[..allowed.len()], ends);
            assert!(same, "the masks of token {at} differ");
            times.push([our_time, time]);
        }
        times
    }
}

/// A mask without the end tokens: ours knows all of them, and llguidance one.
fn inner(mask: &[u32], ends: &[u32]) -> Vec<u32> {
    let mut inner = mask.to_vec();
    ends.iter().for_each(|&end| inner[end as usize / 32] &= !(1 << (end % 32)));
    inner
}

fn bit(mask: &[u32], token: u32) -> bool {
    mask[token as usize / 32] >> (token % 32) & 1 == 1
}

fn time<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let began = Instant::now();
    let result = work();
    (result, began.elapsed().as_secs_f64() * 1e6)
}

fn mask(matcher: &mut Matcher, tokens: &[u32], at: usize) -> Vec<u32> {
    if at > 0 {
        matcher.consume_token(tokens[at - 1]).unwrap();
    }
    matcher.compute_mask_or_eos().unwrap().as_slice().to_vec()
}

/// The sampler of a request with a prompt of two tokens.
struct Ours<'a> {
    sampler: Box<dyn Sampler>,
    number: String,
    ends: &'a [u32],
}

impl Ours<'_> {
    fn mask(&mut self, tokens: &[u32], at: usize) -> Arc<[u32]> {
        let prompt = [5, 6];
        let new = if at == 0 { &prompt[..] } else { &tokens[at - 1..at] };
        let asked = Asked { number: &self.number, ends: self.ends };
        let view = Columns {
            ids: &[1],
            requests: &[1],
            tenants: &[0],
            positions: &[(prompt.len() + at) as u32],
            generated: &[at as u32],
            remaining: &[1000],
            accepted: Ragged { starts: &[0, new.len() as u32], values: new },
            attributes: Some(&asked),
            ..Columns::default()
        };
        let mut knobs = Knobs::default();
        self.sampler.plan(&view, &mut knobs).unwrap();
        knobs.allow.remove(0).1
    }
}

struct Asked<'a> {
    number: &'a str,
    ends: &'a [u32],
}

impl Attributes for Asked<'_> {
    fn attribute(&self, _: usize, key: &str) -> Option<&str> {
        (key == ATTRIBUTE).then_some(self.number)
    }

    fn stop_tokens(&self, _: usize) -> Cow<'_, [u32]> {
        self.ends.into()
    }
}
