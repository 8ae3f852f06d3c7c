//! Components made of WebAssembly text.

use wit_component::{ComponentEncoder, StringEncoding};
use wit_parser::Resolve;

const WIT: &str = include_str!("../../../../wit/policy.wit");
const SAMPLER: &str = include_str!("../../../wasm/tests/guests/sampler.wat");

/// For each row `$a` of `$b`.
const EACH_ROW: &str = "
    (call $ids (local.get $view) (i32.const 64))
    (local.set $b (i32.load (i32.const 68)))
    (block $done (loop $next
      (br_if $done (i32.ge_u (local.get $a) (local.get $b)))
      {{row}}
      (local.set $a (i32.add (local.get $a) (i32.const 1)))
      (br $next)))";

/// A sampler whose `plan` begins with this code.
pub(crate) fn sampler(plan: &str) -> Vec<u8> {
    let text = ["configure", "pick", "more"]
        .iter()
        .fold(SAMPLER.to_owned(), |text, place| text.replace(&format!("{{{{{place}}}}}"), ""));
    let mut resolve = Resolve::default();
    let package = resolve.push_str("policy.wit", WIT).unwrap();
    let world = resolve.select_world(&[package], Some("sampling")).unwrap();
    let mut module = wat::parse_str(text.replace("{{plan}}", plan)).unwrap();
    wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().validate(true).encode().unwrap()
}

/// A sampler whose greedy answers are this token again and again.
pub(crate) fn always(token: u32) -> Vec<u8> {
    let bias = "(call $bias (local.get $out) (local.get $a) (i32.const 96) (i32.const 1) (i32.const 100) (i32.const 1))";
    let plan = format!(
        "(i32.store (i32.const 96) (i32.const {token})) (f32.store (i32.const 100) (f32.const 10000)) {}",
        EACH_ROW.replace("{{row}}", bias)
    );
    sampler(&plan)
}

/// A sampler that traps once it is called for the 21st time.
pub(crate) fn tired() -> Vec<u8> {
    sampler("(if (i32.gt_u (global.get $calls) (i32.const 20)) (then unreachable))")
}
