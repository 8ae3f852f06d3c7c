//! Configurations and weight files with random damage: an error or a value, never a panic, and little memory.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#[path = "../../../host/models/tests/peak/mod.rs"]
mod peak;

use proptest::{prelude::*, sample::Index};
use std::{fs, path::Path};
use tokenmill_backend_model::config::Config;
use tokenmill_backend_model::safetensors::entries;

/// Most memory that reading a configuration or a header of a few hundred bytes may take.
const MEMORY: usize = 1 << 20;

const HEADER: &str = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[4,2],"data_offsets":[0,32]},"b":{"dtype":"BF16","shape":[2],"data_offsets":[32,36]}}"#;

fn weights() -> Vec<u8> {
    [&(HEADER.len() as u64).to_le_bytes()[..], HEADER.as_bytes(), &[0; 36]].concat()
}

/// The configurations of the fixtures, one for each architecture and kind of RoPE.
fn configs() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path().join("config.json"));
    files.filter_map(|path| fs::read(path).ok()).collect()
}

fn flips() -> impl Strategy<Value = Vec<(Index, u8)>> {
    let byte = prop_oneof![any::<u8>(), prop::sample::select(b"0123456789[]{}\",:-.e".to_vec())];
    prop::collection::vec((any::<Index>(), byte), 1..5)
}

fn flipped(mut file: Vec<u8>, flips: &[(Index, u8)]) -> Vec<u8> {
    for (at, byte) in flips {
        let at = at.index(file.len());
        file[at] = *byte;
    }
    file
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_weights(flips in flips(), cut in any::<Index>()) {
        let mut file = flipped(weights(), &flips);
        file.truncate(file.len() - cut.index(file.len()) / 8);
        let (result, memory) = peak::peak(|| entries("w.safetensors", &file));
        prop_assert!(memory < MEMORY, "{memory} bytes");
        for entry in result.unwrap_or_default() {
            prop_assert!(entry.range.end <= file.len(), "{entry:?}");
        }
    }

    #[test]
    fn damaged_configs(which in any::<Index>(), flips in flips()) {
        let configs = configs();
        let file = flipped(configs[which.index(configs.len())].clone(), &flips);
        let (_, memory) = peak::peak(|| Config::parse(&file));
        prop_assert!(memory < MEMORY, "{memory} bytes");
    }
}
