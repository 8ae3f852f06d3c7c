//! Stages of the CPU backend: what they hold, and how many there may be.

#![allow(clippy::unwrap_used, clippy::panic)] // A test may panic, and so may its helpers.

mod common;

use tokenmill_backend::{Backend, Error, Load, Model};

fn load(devices: &[i32], tensor_parallel: u32) -> Result<Model, Error> {
    let backend = Backend::open(&common::beside("tokenmill_cpu")).unwrap();
    backend.load(&Load {
        dir: &common::repository().join("tests/fixtures/models/llama-gqa"),
        devices,
        tensor_parallel,
        block_tokens: 16,
        max_tokens: 16,
        max_rows: 8,
        max_seqs: 4,
        depth: 1,
        kv_bytes: 1 << 20,
        options: "",
        progress: None,
    })
}

#[test]
fn stages_share_out_weights_and_cache() {
    let (one, two) = (load(&[0], 1).unwrap(), load(&[0, 0], 1).unwrap());
    let facts = |model: &Model| {
        let info = model.info();
        (info.weight_bytes, info.kv_block_bytes, info.n_blocks)
    };
    assert_eq!(facts(&one), facts(&two));
}

#[test]
fn more_stages_than_layers_are_refused_by_name() {
    let error = load(&[0, 0, 0], 1).map(drop).unwrap_err();
    let named = "n_devices / tensor_parallel = 3 pipeline stages";
    assert!(matches!(&error, Error::Unsupported(text) if text.contains(named)), "{error}");
}
