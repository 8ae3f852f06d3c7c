//! Components made of hostile pieces of WebAssembly text.

use std::sync::{Arc, LazyLock, Mutex};

use tokenmill_policy::{Host, Services};
use tokenmill_wasm::{Error, Limits, Plugin, Runtime};
use wit_component::{ComponentEncoder, StringEncoding};
use wit_parser::Resolve;

pub(crate) const WIT: &str = include_str!("../../../../wit/policy.wit");
const SAMPLER: &str = include_str!("../guests/sampler.wat");
const SCHEDULER: &str = include_str!("../guests/scheduler.wat");

pub(crate) const VOCAB: u32 = 32;

/// Code for the places of a guest's text.
#[derive(Default)]
pub(crate) struct Code<'a> {
    pub(crate) configure: &'a str,
    pub(crate) plan: &'a str,
    pub(crate) pick: &'a str,
    pub(crate) more: &'a str,
}

impl Code<'_> {
    fn put_into(&self, text: &str) -> String {
        let text = text.replace("{{configure}}", self.configure).replace("{{plan}}", self.plan);
        text.replace("{{pick}}", self.pick).replace("{{more}}", self.more)
    }

    pub(crate) fn sampler(&self) -> Vec<u8> {
        component(&self.put_into(SAMPLER), WIT, "sampling")
    }

    pub(crate) fn scheduler(&self) -> Vec<u8> {
        component(&self.put_into(SCHEDULER), WIT, "scheduling")
    }

    pub(crate) fn scheduler_text(&self) -> String {
        self.put_into(SCHEDULER)
    }

    pub(crate) fn sampler_text(&self) -> String {
        self.put_into(SAMPLER)
    }
}

pub(crate) fn plan(code: &str) -> Code<'_> {
    Code { plan: code, ..Code::default() }
}

/// A component of a core module in text form and a world of the contract.
pub(crate) fn component(module: &str, wit: &str, world: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    resolve
        .push_str(
            "clocks.wit",
            "package wasi:clocks@0.2.0; interface monotonic-clock { now: func() -> u64; }",
        )
        .unwrap();
    let package = resolve.push_str("policy.wit", wit).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    let mut module = wat::parse_str(module).unwrap();
    wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().validate(true).encode().unwrap()
}

pub(crate) fn compiler() -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.arg("compile");
    command
}

pub(crate) fn limits() -> Limits {
    Limits { instances: 64, ..Limits::default() }
}

/// The runtime of all tests that need no other.
pub(crate) static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    Runtime::new(limits(), compiler, Some(folder.keep().join("cache"))).unwrap()
});

/// A host that remembers what was logged.
#[derive(Default)]
pub(crate) struct Spy {
    pub(crate) lines: Mutex<Vec<String>>,
}

impl Services for Spy {
    fn log(&self, message: &str) {
        assert!(!message.contains("panic now"), "as the test wants");
        self.lines.lock().unwrap().push(message.into());
    }

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
    Arc::new(Spy::default())
}

pub(crate) fn load(component: &[u8]) -> Result<Plugin, Error> {
    Plugin::load(&RUNTIME, "test", component, "", host())
}
