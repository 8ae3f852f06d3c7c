//! The promise of the contract: a component built against its first version runs on this host.
//!
//! The components in `tests/fixtures/contract` import every function of version 0.1.0. They are written once
//! (`cargo test -p tokenmill-wasm --test policies write-contract`) and never again: if one of these tests fails, the
//! contract was broken, not the fixture.

use std::path::PathBuf;

use tokenmill_policy::sample::Choices;
use tokenmill_policy::schedule::Order;
use tokenmill_wasm::{Kind, Plugin};

use crate::guests::{Code, RUNTIME, WIT, component, host};
use crate::steps;
use crate::tests;

tests!(components_of_the_first_version_run, the_contract_only_gains_lines);

/// What `sampler.wat` leaves out of version 0.1.0.
const SAMPLER: &str = r#"
  (import "tokenmill:policy/host@0.1.0" "tokenize" (func (param i32 i32 i32)))
  (import "tokenmill:policy/sample-host@0.1.0" "[method]view.requests" (func (param i32 i32)))
  (import "tokenmill:policy/sample-host@0.1.0" "[method]view.positions" (func (param i32 i32)))
  (import "tokenmill:policy/sample-host@0.1.0" "[method]view.generated" (func (param i32 i32)))
  (import "tokenmill:policy/sample-host@0.1.0" "[method]view.remaining" (func (param i32 i32)))
  (import "tokenmill:policy/sample-host@0.1.0" "[method]view.scores" (func (param i32 i32)))
  (import "tokenmill:policy/sample-host@0.1.0" "[method]view.assumed" (func (param i32 i32)))
  (import "tokenmill:policy/sample-host@0.1.0" "[method]view.stop-tokens" (func (param i32 i32 i32)))
  (import "tokenmill:policy/sample-host@0.1.0" "[method]knobs.refuse" (func (param i32 i32 i32 i32)))
  (import "tokenmill:policy/sample-host@0.1.0" "[method]logits.vocab" (func (param i32) (result i32)))
  (import "tokenmill:policy/sample-host@0.1.0" "[method]logits.top-k" (func (param i32 i32 i32 i32)))
  (import "tokenmill:policy/sample-host@0.1.0" "[method]logits.gather" (func (param i32 i32 i32 i32 i32)))
  (import "tokenmill:policy/sample-host@0.1.0" "[method]logits.entropy" (func (param i32 i32) (result f32)))
"#;

/// What `scheduler.wat` leaves out.
const SCHEDULER: &str = r#"
  (import "tokenmill:policy/host@0.1.0" "log" (func (param i32 i32)))
  (import "tokenmill:policy/host@0.1.0" "vocab" (func (result i32)))
  (import "tokenmill:policy/host@0.1.0" "token-bytes" (func (param i32 i32 i32)))
  (import "tokenmill:policy/host@0.1.0" "tokenize" (func (param i32 i32 i32)))
  (import "tokenmill:policy/schedule-host@0.1.0" "[method]view.token-budget" (func (param i32) (result i32)))
  (import "tokenmill:policy/schedule-host@0.1.0" "[method]view.free-blocks" (func (param i32) (result i32)))
  (import "tokenmill:policy/schedule-host@0.1.0" "[method]view.block-tokens" (func (param i32) (result i32)))
  (import "tokenmill:policy/schedule-host@0.1.0" "[method]view.free-seqs" (func (param i32) (result i32)))
  (import "tokenmill:policy/schedule-host@0.1.0" "[method]view.resident" (func (param i32 i32)))
  (import "tokenmill:policy/schedule-host@0.1.0" "[method]view.generated" (func (param i32 i32)))
  (import "tokenmill:policy/schedule-host@0.1.0" "[method]view.arrived-us" (func (param i32 i32)))
  (import "tokenmill:policy/schedule-host@0.1.0" "[method]view.priority" (func (param i32 i32)))
  (import "tokenmill:policy/schedule-host@0.1.0" "[method]view.tenant" (func (param i32 i32)))
  (import "tokenmill:policy/schedule-host@0.1.0" "[method]view.deadline-us" (func (param i32 i32)))
  (import "tokenmill:policy/schedule-host@0.1.0" "[method]view.prefix" (func (param i32 i32)))
  (import "tokenmill:policy/schedule-host@0.1.0" "[method]view.finished" (func (param i32 i32)))
  (import "tokenmill:policy/schedule-host@0.1.0" "[method]view.attribute" (func (param i32 i32 i32 i32 i32)))
"#;

/// Temperature 0.25 for row 0, and token 7 for it.
const ANSWER: Code<'_> = Code {
    configure: "",
    plan: "(i32.store (i32.const 96) (i32.const 0)) (f32.store (i32.const 100) (f32.const 0.25))
        (call $temperature (local.get $out) (i32.const 96) (i32.const 1) (i32.const 100) (i32.const 1))
        (call $inspect (local.get $out) (i32.const 96) (i32.const 1))",
    pick: "(i32.store (i32.const 96) (i32.const 0)) (i32.store (i32.const 104) (i32.const 7))
        (call $accept (local.get $out) (i32.const 96) (i32.const 1) (i32.const 104) (i32.const 1))",
    more: "",
};

/// Sequence 1 with 5 tokens.
const ORDER: Code<'_> = Code {
    configure: "",
    plan: "(i32.store (i32.const 96) (i32.const 1)) (i32.store (i32.const 100) (i32.const 5))
        (call $run (local.get $out) (i32.const 96) (i32.const 1) (i32.const 100) (i32.const 1))",
    pick: "",
    more: "",
};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/contract")
}

/// Writes the components and the lines of the contract as they are now.
pub(crate) fn write() {
    let with = |text: &str, imports: &str| {
        text.replacen("(memory (export", &format!("{imports}  (memory (export"), 1)
    };
    let sampler = component(&with(&ANSWER.sampler_text(), SAMPLER), WIT, "sampling");
    let scheduler = component(&with(&ORDER.scheduler_text(), SCHEDULER), WIT, "scheduling");
    std::fs::write(folder().join("sampler-0.1.0.wasm"), sampler).unwrap();
    std::fs::write(folder().join("scheduler-0.1.0.wasm"), scheduler).unwrap();
    std::fs::write(folder().join("policy-0.1.txt"), lines().join("\n") + "\n").unwrap();
}

fn load(name: &str) -> Plugin {
    let bytes = std::fs::read(folder().join(name)).unwrap();
    Plugin::load(&RUNTIME, "first", &bytes, "", host()).unwrap()
}

fn components_of_the_first_version_run() {
    let plugin = load("sampler-0.1.0.wasm");
    assert_eq!((plugin.kind(), plugin.contract()), (Kind::Sampler, "0.1.0"));
    let (knobs, choices) =
        steps::ask(&mut *plugin.sampler().unwrap(), &[(1, 0, 3, &[1, 2, 3])], &[], &[9]).unwrap();
    assert_eq!(knobs.temperature, [(0, 0.25)]);
    assert_eq!(choices, Choices { accept: vec![(0, 7)], ..Choices::default() });
    let plugin = load("scheduler-0.1.0.wasm");
    assert_eq!((plugin.kind(), plugin.contract()), (Kind::Scheduler, "0.1.0"));
    let order = steps::order(&mut *plugin.scheduler().unwrap(), 3).unwrap();
    assert_eq!(order, Order { indices: vec![1], tokens: vec![5], rejected: vec![] });
}

/// The contract without comments and blank lines.
fn lines() -> Vec<String> {
    let text = WIT.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("///"));
    text.map(str::to_owned).collect()
}

/// Every line of the golden file still stands, in its order; new ones are to be added to it.
fn the_contract_only_gains_lines() {
    let golden = std::fs::read_to_string(folder().join("policy-0.1.txt")).unwrap();
    let now = lines();
    let mut rest = now.iter();
    for line in golden.lines() {
        assert!(
            rest.any(|other| other == line),
            "wit/policy.wit lost the line {line:?}, on which plugins rely"
        );
    }
    let new: Vec<_> = now.iter().filter(|line| !golden.lines().any(|old| old == *line)).collect();
    assert!(new.is_empty(), "add to tests/fixtures/contract/policy-0.1.txt, and never take away: {new:#?}");
}
