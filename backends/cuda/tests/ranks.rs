//! The library on several devices, through its ABI, over the emulator: ranks that share layers, ranks that follow each
//! other, and both.

#![allow(clippy::unwrap_used, clippy::panic)] // A test may panic, and so may its helpers.

#[path = "backend/devices.rs"]
mod devices;
#[path = "backend/support.rs"]
mod support;

use std::time::Duration;

use devices::has_four;
use support::{BLOCK, Runner, cpu, cuda, fixtures, furthest, ids, json, load};
use tokenmill_backend::{Batch, Error, Load};
use tokenmill_conformance::{Ranks, run_on};
use tokenmill_emulator::Fault;

/// Of a logit in f32: sums in another order.
const F32: f32 = 1e-4;

fn conforms(devices: &[i32], tensor_parallel: u32, options: &str) {
    let model = fixtures().join("models/llama-gqa");
    let report = run_on(&cuda(), &model, options, Ranks { devices, tensor_parallel });
    assert!(report.passed(), "{devices:?} / {tensor_parallel}, options {options:?}\n{report}");
}

#[test]
fn conforms_on_two_ranks_that_share_the_layers() {
    if has_four("conforms_on_two_ranks_that_share_the_layers") {
        conforms(&[0, 1], 2, "dtype=f32\ngraphs=on");
    }
}

#[test]
fn conforms_on_two_ranks_that_follow_each_other() {
    if has_four("conforms_on_two_ranks_that_follow_each_other") {
        conforms(&[2, 1], 1, "dtype=bf16\ngraphs=on");
    }
}

#[test]
fn logits_and_tokens_are_those_of_the_cpu_backend_however_the_model_is_spread() {
    if !has_four("logits_and_tokens_are_those_of_the_cpu_backend_however_the_model_is_spread") {
        return;
    }
    let (cpu, cuda) = (cpu(), cuda());
    // Grouped heads, one head for all ranks, a tied table with soft caps and two norms a branch, norms of heads.
    for name in ["llama-gqa", "llama-mqa", "gemma2", "qwen3"] {
        let dir = fixtures().join("models").join(name);
        let reference = json(&dir.join("reference.json"));
        let prompt = ids(&reference["prompts"][0]["prompt_ids"]);
        let greedy = ids(&reference["prompts"][0]["greedy_ids"]);
        let want = Runner(load(&cpu, &dir, &[0], 1, "dtype=f32")).logits(&prompt, 0);
        for (devices, tensor_parallel) in [(&[0, 1][..], 2), (&[0, 1], 1), (&[0, 1, 2, 3], 2)] {
            for graphs in ["on", "off"] {
                let what = format!("{name} on {devices:?} / {tensor_parallel}, graphs {graphs}");
                let options = format!("dtype=f32\ngraphs={graphs}");
                let mut model = Runner(load(&cuda, &dir, devices, tensor_parallel, &options));
                for (position, (got, want)) in model.logits(&prompt, 0).iter().zip(&want).enumerate() {
                    let off = furthest(got, want);
                    assert!(off <= F32, "{what}: position {position} is off by {off}");
                }
                assert_eq!(model.greedy(&prompt, greedy.len()), greedy, "{what}");
            }
        }
    }
}

#[test]
fn one_device_twice_is_refused() {
    if !has_four("one_device_twice_is_refused") {
        return;
    }
    let load = Load {
        dir: &fixtures().join("models/llama-gqa"),
        devices: &[1, 1],
        tensor_parallel: 2,
        block_tokens: BLOCK,
        max_tokens: 16,
        max_rows: 8,
        max_seqs: 4,
        depth: 2,
        kv_bytes: 0,
        options: "",
        progress: None,
    };
    let error = cuda().load(&load).map(drop).unwrap_err();
    let named = |text: &str| text.contains("devices[1] = 1 is devices[0] again");
    assert!(matches!(&error, Error::Unsupported(text) if named(text)), "{error}");
}

#[test]
fn a_fault_on_one_device_ends_the_waits_of_all() {
    if !has_four("a_fault_on_one_device_ends_the_waits_of_all") {
        return;
    }
    let dir = fixtures().join("models/llama-gqa");
    let mut model = load(&cuda(), &dir, &[0, 1, 2, 3], 2, "dtype=f32");
    // Whichever rank launches it.
    tokenmill_emulator::set(Fault::FailLaunch(20));
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
    let error = model.wait(ticket, Duration::from_secs(60), &mut Vec::new(), &mut Vec::new()).unwrap_err();
    assert!(matches!(error, Error::Lost(_)), "{error}");
    assert!(matches!(model.submit(&batch), Err(Error::Lost(_))));
    // Unloading waits for every rank.
    drop(model);
}
