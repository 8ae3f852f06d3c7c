//! A component that never answers.

use wit_component::{ComponentEncoder, StringEncoding};
use wit_parser::Resolve;

const WIT: &str = include_str!("../../../../wit/policy.wit");
const SAMPLER: &str = include_str!("../../tests/guests/sampler.wat");

/// A sampler whose `plan` loops for ever.
pub(crate) fn runaway() -> Vec<u8> {
    let text = SAMPLER.replace("{{plan}}", "(loop $for_ever (br $for_ever))");
    let text = ["{{configure}}", "{{pick}}", "{{more}}"].iter().fold(text, |text, at| text.replace(at, ""));
    let mut resolve = Resolve::default();
    let package = resolve.push_str("policy.wit", WIT).unwrap();
    let world = resolve.select_world(&[package], Some("sampling")).unwrap();
    let mut module = wat::parse_str(text).unwrap();
    wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().validate(true).encode().unwrap()
}
