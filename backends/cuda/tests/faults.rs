//! What is missing or breaks is one clear error, never a panic. Each case is a process of its own.

#![allow(clippy::unwrap_used, clippy::panic)] // A test may panic, and so may its helpers.

#[path = "backend/support.rs"]
mod support;

use std::process::Command;
use std::time::Duration;

use support::{BLOCK, cuda, fixtures};
use tokenmill_backend::abi::Row;
use tokenmill_backend::{Backend, Batch, Error, Load, Model, Sampling};

/// What the case in this process does: see `in_a_process`.
const CASE: &str = "TOKENMILL_CASE";

/// Runs the test `name` again in a process with these variables, where `CASE` is set.
fn in_a_process(name: &str, variables: &[(&str, &str)]) {
    if tokenmill_emulator::is_real_gpu() {
        return;
    }
    let mut process = Command::new(std::env::current_exe().unwrap());
    process.args(["--exact", name, "--nocapture"]).env(CASE, "1").envs(variables.iter().copied());
    let out = process.output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{variables:?}:\n{said}");
    assert!(said.contains("1 passed"), "no test {name}:\n{said}");
}

fn is_case() -> bool {
    std::env::var_os(CASE).is_some()
}

fn load(backend: &Backend, devices: &[i32], kv_bytes: u64, options: &str) -> Result<Model, Error> {
    backend.load(&Load {
        dir: &fixtures().join("models/llama-gqa"),
        devices,
        tensor_parallel: devices.len() as u32,
        block_tokens: BLOCK,
        max_tokens: 16,
        max_rows: 8,
        max_seqs: 4,
        depth: 2,
        kv_bytes,
        options,
        progress: None,
    })
}

fn refused(loaded: Result<Model, Error>) -> Error {
    match loaded {
        Ok(_) => panic!("it was loaded"),
        Err(error) => error,
    }
}

#[test]
fn without_a_driver_the_library_says_so() {
    if !is_case() {
        return in_a_process("without_a_driver_the_library_says_so", &[]);
    }
    // Nothing is preloaded here.
    if std::path::Path::new("/dev/nvidiactl").exists() {
        return;
    }
    let backend = support::unready();
    let probed = backend.probe().unwrap_err().to_string();
    assert!(probed.contains("libcuda.so.1 not found"), "{probed}");
    assert!(
        matches!(refused(load(&backend, &[0], 0, "")), Error::Unsupported(text) if text.contains("no CUDA driver"))
    );
}

#[test]
fn without_a_device_the_library_says_so() {
    if !is_case() {
        return in_a_process("without_a_device_the_library_says_so", &[("TM_EMULATOR_DEVICES", "0")]);
    }
    let backend = cuda();
    let probed = backend.probe().unwrap_err().to_string();
    assert!(probed.contains("no GPU"), "{probed}");
    assert!(
        matches!(refused(load(&backend, &[0], 0, "")), Error::Unsupported(text) if text.contains("no GPU"))
    );
}

#[test]
fn a_device_that_is_not_there_is_named() {
    if !is_case() {
        return in_a_process("a_device_that_is_not_there_is_named", &[("TM_EMULATOR_DEVICES", "2")]);
    }
    for devices in [&[2][..], &[-1]] {
        let error = refused(load(&cuda(), devices, 0, ""));
        assert!(matches!(&error, Error::Invalid(text) if text.contains("devices[0]")), "{error}");
    }
}

#[test]
fn an_architecture_without_kernels_is_named() {
    if !is_case() {
        return in_a_process("an_architecture_without_kernels_is_named", &[("TM_EMULATOR_CC", "75")]);
    }
    let error = refused(load(&cuda(), &[0], 0, ""));
    assert!(matches!(&error, Error::Unsupported(text) if text.contains("7.5")), "{error}");
}

#[test]
fn too_little_memory_is_told_and_a_smaller_load_works_afterwards() {
    if !is_case() {
        let memory = [("TM_EMULATOR_MEMORY", "67108864")];
        return in_a_process("too_little_memory_is_told_and_a_smaller_load_works_afterwards", &memory);
    }
    let backend = cuda();
    let error = refused(load(&backend, &[0], 1 << 30, ""));
    assert!(matches!(&error, Error::NoMemory(text) if text.contains("kv_bytes")), "{error}");
    assert!(load(&backend, &[0], 1 << 20, "").is_ok());
}

#[test]
fn wrong_options_are_named() {
    let backend = cuda();
    for (options, named) in [
        ("graphs=maybe", "graphs=maybe"),
        ("gemm=mine", "gemm=mine"),
        ("kv_dtype=bf16\ndtype=f32", "kv_dtype=bf16"),
    ] {
        let error = refused(load(&backend, &[0], 0, options)).to_string();
        assert!(error.contains(named), "{options:?}: {error}");
    }
}

#[test]
fn a_fault_on_the_device_loses_the_model_and_nothing_hangs() {
    if !is_case() {
        return in_a_process("a_fault_on_the_device_loses_the_model_and_nothing_hangs", &[]);
    }
    let backend = cuda();
    let mut model = load(&backend, &[0], 0, "").unwrap();
    tokenmill_emulator::set(tokenmill_emulator::Fault::FailLaunch(5));
    let batch = Batch {
        tokens: &[3, 4],
        seq_start: &[0, 2],
        seq_pos: &[0],
        block_start: &[0, 1],
        blocks: &[0],
        rows: &[1],
        copies: &[],
    };
    let ticket = model.submit(&batch).unwrap();
    // It may be known already.
    let _ = model.sample(ticket, &Sampling { rows: &[Row::default()], ..Sampling::default() });
    let (mut tokens, mut logprobs) = (Vec::new(), Vec::new());
    let error = model.wait(ticket, Duration::from_secs(20), &mut tokens, &mut logprobs).unwrap_err();
    assert!(matches!(&error, Error::Lost(text) if text.contains("ILLEGAL_ADDRESS")), "{error}");
    assert!(matches!(model.submit(&batch), Err(Error::Lost(_))));
    drop(model);
    // A sticky error stays with the process.
    assert!(load(&backend, &[0], 0, "").is_err());
}
