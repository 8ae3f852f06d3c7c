//! The components of the target `calls`: an interpreter whose program is a column of the view.
//!
//! An operation has eight words: its number, a handle (0: the honest one), arguments (more than there are words are those
//! of the next operation), and where the host shall write what it returns (0: at 64). Memory: 16 the answer "ok", 64 what
//! getters return, 4096 heap.

use std::fmt::Write;
use std::sync::LazyLock;

use wit_component::{ComponentEncoder, StringEncoding};
use wit_parser::Resolve;

const WIT: &str = include_str!("../../../wit/policy.wit");

pub(crate) static SAMPLER: LazyLock<Vec<u8>> = LazyLock::new(|| {
    component(
        "sampling",
        &module(SAMPLING, LATER, "sampler", "(call $i_accepted (local.get $view) (i32.const 64))", 72),
    )
});
pub(crate) static SCHEDULER: LazyLock<Vec<u8>> = LazyLock::new(|| {
    component(
        "scheduling",
        &module(SCHEDULING, &[], "scheduler", "(call $i_pending (local.get $view) (i32.const 64))", 64),
    )
});

/// A function of the host: its interface and name; its parameters (`V` the view, `O` the answer, `L` the logits,
/// `M` a mask, `w` any word, `r` where to return); its result.
type Import = (&'static str, &'static str, &'static str, &'static str);

const SAMPLING: &[Import] = &[
    ("host", "log", "ww", ""),
    ("host", "vocab", "", "i32"),
    ("host", "token-bytes", "wwr", ""),
    ("host", "tokenize", "wwr", ""),
    ("sample-host", "[method]view.ids", "Vr", ""),
    ("sample-host", "[method]view.requests", "Vr", ""),
    ("sample-host", "[method]view.positions", "Vr", ""),
    ("sample-host", "[method]view.generated", "Vr", ""),
    ("sample-host", "[method]view.remaining", "Vr", ""),
    ("sample-host", "[method]view.scores", "Vr", ""),
    ("sample-host", "[method]view.seeds", "Vr", ""),
    ("sample-host", "[method]view.accepted", "Vr", ""),
    ("sample-host", "[method]view.assumed", "Vr", ""),
    ("sample-host", "[method]view.finished", "Vr", ""),
    ("sample-host", "[method]view.attribute", "Vwwwr", ""),
    ("sample-host", "[method]view.stop-tokens", "Vwr", ""),
    ("sample-host", "[constructor]mask", "ww", "i32"),
    ("sample-host", "[method]knobs.temperature", "Owwww", ""),
    ("sample-host", "[method]knobs.top-k", "Owwww", ""),
    ("sample-host", "[method]knobs.top-p", "Owwww", ""),
    ("sample-host", "[method]knobs.min-p", "Owwww", ""),
    ("sample-host", "[method]knobs.bias", "Owwwww", ""),
    ("sample-host", "[method]knobs.allow", "OwM", ""),
    ("sample-host", "[method]knobs.inspect", "Oww", ""),
    ("sample-host", "[method]knobs.refuse", "Owww", ""),
    ("sample-host", "[method]logits.vocab", "L", "i32"),
    ("sample-host", "[method]logits.top-k", "Lwwr", ""),
    ("sample-host", "[method]logits.gather", "Lwwwr", ""),
    ("sample-host", "[method]logits.entropy", "Lw", "f32"),
    ("sample-host", "[method]logits.read", "Lwr", ""),
    ("sample-host", "[method]choices.accept", "Owwww", ""),
    ("sample-host", "[method]choices.defer", "Oww", ""),
    ("sample-host", "[method]choices.finish", "Oww", ""),
    ("sample-host", "[resource-drop]mask", "M", ""),
    ("sample-host", "[resource-drop]view", "V", ""),
    ("sample-host", "[resource-drop]knobs", "O", ""),
    ("sample-host", "[resource-drop]logits", "L", ""),
    ("sample-host", "[resource-drop]choices", "O", ""),
];

/// What later versions added: its operations have numbers after all others, so that seeds keep their meaning.
const LATER: &[Import] = &[
    ("sample-host", "[static]view.batch-update", "r", ""),
    ("sample-host", "[static]knobs.params", "wwwwwwww", ""),
    ("sample-host", "[method]logits.batch-top-k", "Lwwwwr", ""),
];

const SCHEDULING: &[Import] = &[
    ("host", "log", "ww", ""),
    ("schedule-host", "[method]view.now-us", "V", "i64"),
    ("schedule-host", "[method]view.token-budget", "V", "i32"),
    ("schedule-host", "[method]view.free-blocks", "V", "i32"),
    ("schedule-host", "[method]view.block-tokens", "V", "i32"),
    ("schedule-host", "[method]view.free-seqs", "V", "i32"),
    ("schedule-host", "[method]view.ids", "Vr", ""),
    ("schedule-host", "[method]view.pending", "Vr", ""),
    ("schedule-host", "[method]view.resident", "Vr", ""),
    ("schedule-host", "[method]view.generated", "Vr", ""),
    ("schedule-host", "[method]view.arrived-us", "Vr", ""),
    ("schedule-host", "[method]view.priority", "Vr", ""),
    ("schedule-host", "[method]view.tenant", "Vr", ""),
    ("schedule-host", "[method]view.deadline-us", "Vr", ""),
    ("schedule-host", "[method]view.prefix", "Vr", ""),
    ("schedule-host", "[method]view.finished", "Vr", ""),
    ("schedule-host", "[method]view.attribute", "Vwwwr", ""),
    ("schedule-host", "[method]order.run", "Owwww", ""),
    ("schedule-host", "[method]order.reject", "Oww", ""),
    ("schedule-host", "[resource-drop]view", "V", ""),
    ("schedule-host", "[resource-drop]order", "O", ""),
];

/// What a guest can do by itself: its memory, its answers, its `realloc`, a trap.
const OWN: [&str; 6] = [
    "(drop (memory.grow (i32.and (call $word (i32.const 2)) (i32.const 63))))",
    "(i32.store (call $word (i32.const 2)) (call $word (i32.const 3)))",
    "(global.set $wild (call $word (i32.const 2)))",
    "(return (call $word (i32.const 2)))",
    "(global.set $stay (i32.const 1))",
    "(unreachable)",
];

/// The module's text; `read` fetches the program, whose address is then at `at`.
fn module(imports: &[Import], later: &[Import], interface: &str, read: &str, at: u32) -> String {
    let mut declared = String::new();
    let (mut operations, mut count) = (String::new(), 0);
    let mut operation = |code: &str| {
        let _ = writeln!(operations, "(if (i32.eq (local.get $op) (i32.const {count})) (then {code}))");
        count += 1;
    };
    imports.iter().for_each(|import| operation(&call(import, &mut declared)));
    OWN.iter().for_each(|own| operation(own));
    later.iter().for_each(|import| operation(&call(import, &mut declared)));
    let text =
        include_str!("guest.wat").replace("{{imports}}", &declared).replace("{{operations}}", &operations);
    let text = text.replace("{{count}}", &count.to_string()).replace("{{read}}", read);
    let hooks = if interface == "sampler" { SAMPLER_HOOKS } else { SCHEDULER_HOOKS };
    text.replace("{{hooks}}", hooks)
        .replace("{{at}}", &at.to_string())
        .replace("{{len}}", &(at + 4).to_string())
}

/// Declares a function of the host; returns code that calls it.
fn call(&(of, name, parameters, result): &Import, declared: &mut String) -> String {
    let types = "i32 ".repeat(parameters.len());
    let gives = if result.is_empty() { String::new() } else { format!("(result {result})") };
    let id = id(name);
    let _ = writeln!(
        declared,
        r#"(import "tokenmill:policy/{of}@0.1.0" "{name}" (func ${id} (param {types}) {gives}))"#
    );
    let call = format!("(call ${id} {})", arguments(parameters));
    match (name, result) {
        (_, "") => call,
        ("[constructor]mask", _) => format!("(global.set $mask {call})"),
        _ => format!("(drop {call})"),
    }
}

fn id(name: &str) -> String {
    format!("i_{}", name.replace("[method]view.", "").replace(['[', ']'], "").replace(['.', '-'], "_"))
}

fn arguments(parameters: &str) -> String {
    let mut word = 1;
    let one = |parameter: char| {
        let handle =
            |word: u32, honest: &str| format!("(call $either (call $word (i32.const {word})) {honest})");
        match parameter {
            'V' => handle(1, "(local.get $view)"),
            'O' => handle(1, "(local.get $out)"),
            'L' => handle(1, "(local.get $logits)"),
            'r' => handle(7, "(i32.const 64)"),
            _ => {
                word += 1;
                if parameter == 'M' {
                    handle(word, "(global.get $mask)")
                } else {
                    format!("(call $word (i32.const {word}))")
                }
            }
        }
    };
    parameters.chars().map(one).collect::<Vec<_>>().join(" ")
}

const SAMPLER_HOOKS: &str = r#"
  (func (export "tokenmill:policy/sampler@0.1.0#configure") (param i32 i32) (result i32) (i32.const 16))
  (func (export "tokenmill:policy/sampler@0.1.0#plan") (param $view i32) (param $out i32) (result i32)
    (local $answer i32)
    (call $fetch (local.get $view))
    (local.set $answer (call $run (local.get $view) (local.get $out) (i32.const 0)))
    (if (i32.eqz (global.get $stay)) (then
      (call $i_resource_dropview (local.get $view)) (call $i_resource_dropknobs (local.get $out))))
    (local.get $answer))
  (func (export "tokenmill:policy/sampler@0.1.0#pick")
    (param $view i32) (param $logits i32) (param i32 i32) (param $out i32) (result i32)
    (local $answer i32)
    (local.set $answer (call $run (local.get $view) (local.get $out) (local.get $logits)))
    (if (i32.eqz (global.get $stay)) (then
      (call $i_resource_dropview (local.get $view)) (call $i_resource_droplogits (local.get $logits))
      (call $i_resource_dropchoices (local.get $out))))
    (local.get $answer))"#;

const SCHEDULER_HOOKS: &str = r#"
  (func (export "tokenmill:policy/scheduler@0.1.0#configure") (param i32 i32) (result i32) (i32.const 16))
  (func (export "tokenmill:policy/scheduler@0.1.0#plan") (param $view i32) (param $out i32) (result i32)
    (local $answer i32)
    (call $fetch (local.get $view))
    (local.set $answer (call $run (local.get $view) (local.get $out) (i32.const 0)))
    (if (i32.eqz (global.get $stay)) (then
      (call $i_resource_dropview (local.get $view)) (call $i_resource_droporder (local.get $out))))
    (local.get $answer))"#;

fn component(world: &str, module: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("policy.wit", WIT).expect("the contract");
    let world = resolve.select_world(&[package], Some(world)).expect("a world of it");
    let mut module = wat::parse_str(module).unwrap_or_else(|error| panic!("{error}\n{module}"));
    wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
        .expect("the metadata");
    ComponentEncoder::default()
        .module(&module)
        .expect("a module")
        .validate(true)
        .encode()
        .expect("a component")
}
