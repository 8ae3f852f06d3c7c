//! The one place where bytes become machine code.
#![allow(unsafe_code, reason = "wasmtime cannot check compiled code")]

use wasmtime::Engine;
use wasmtime::component::Component;

/// Code that the process of [`crate::compile_worker`] made in this run, or that [`crate::cache`] kept of
/// an earlier one. Nothing else makes this type: bytes of a user never get here.
pub(crate) struct Artifact(Vec<u8>);

impl Artifact {
    /// `code` is the output of `Engine::precompile_component` in a process of this program, whole and
    /// unchanged since.
    pub(crate) fn trusted(code: Vec<u8>) -> Self {
        Self(code)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn load(&self, engine: &Engine) -> wasmtime::Result<Component> {
        // SAFETY: by the contract of `trusted` these are the bytes that Cranelift produced; wasmtime
        // checks that version and settings are those of this engine.
        unsafe { Component::deserialize(engine, &self.0) }
    }
}
