//! Model directories with random damage: `check` returns, never panics, and takes little memory.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod peak;

use proptest::{prelude::*, sample::Index};
use serde_json::{Value, json};
use std::{fs, path::Path};
use tokenmill_models::check;

/// Most memory `check` may hold for files of a few hundred bytes.
const MEMORY: usize = 1 << 20;

fn config() -> Value {
    json!({"model_type": "gemma3_text", "vocab_size": 4, "hidden_size": 2, "num_hidden_layers": 1, "head_dim": 2,
           "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
           "text_config": null, "rope_scaling": {"rope_type": "linear", "factor": 2.0}, "eos_token_id": [1, 2]})
}

fn weights() -> Vec<u8> {
    let header = json!({"__metadata__": {"format": "pt"},
        "model.embed_tokens.weight": {"dtype": "F32", "shape": [4, 2], "data_offsets": [0, 32]},
        "model.norm.weight": {"dtype": "BF16", "shape": [2], "data_offsets": [32, 36]}})
    .to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 36]].concat()
}

fn index() -> Vec<u8> {
    json!({"metadata": {"total_size": 36}, "weight_map": {"model.embed_tokens.weight": "a.safetensors",
           "model.norm.weight": "a.safetensors"}})
    .to_string()
    .into_bytes()
}

type Damage = (Vec<(Index, u8)>, Index, Index, bool);

/// What happens to a file: bytes replaced, then a stretch copied elsewhere, then the end cut off.
fn damage() -> impl Strategy<Value = Damage> {
    (
        prop::collection::vec(any::<(Index, u8)>(), 0..6),
        any::<Index>(),
        any::<Index>(),
        prop::bool::weighted(0.2),
    )
}

fn damaged(mut file: Vec<u8>, damage: &Damage) -> Vec<u8> {
    let (bytes, from, to, cut) = damage;
    for (at, byte) in bytes {
        let at = at.index(file.len());
        file[at] = *byte;
    }
    let (from, to) = (from.index(file.len()), to.index(file.len()));
    if from > to && from - to < 16 {
        let stretch = file[to..from].to_vec();
        file.splice(to..to, stretch);
    }
    if *cut {
        file.truncate(from);
    }
    file
}

fn survives(dir: &Path) -> Result<(), TestCaseError> {
    let (result, memory) = peak::peak(|| check(dir));
    prop_assert!(memory < MEMORY, "{memory} bytes for {result:?}");
    Ok(())
}

/// Any JSON value that stands where another belongs.
fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec![0u64, 1, 2, 3, 255, 65_536, 1 << 31, 1 << 32, 1 << 53, u64::MAX])
            .prop_map(Value::from),
        "[a-z0-9._]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[a-z_]{1,8}", inner, 0..3).prop_map(|m| json!(m)),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_weights(damage in damage()) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), config().to_string()).unwrap();
        fs::write(dir.path().join("model.safetensors"), damaged(weights(), &damage)).unwrap();
        survives(dir.path())?;
    }

    #[test]
    fn damaged_index(damage in damage()) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), config().to_string()).unwrap();
        fs::write(dir.path().join("a.safetensors"), weights()).unwrap();
        fs::write(dir.path().join("model.safetensors.index.json"), damaged(index(), &damage)).unwrap();
        survives(dir.path())?;
    }

    #[test]
    fn damaged_config(damage in damage()) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), damaged(config().to_string().into_bytes(), &damage)).unwrap();
        fs::write(dir.path().join("model.safetensors"), weights()).unwrap();
        survives(dir.path())?;
    }

    #[test]
    fn config_with_other_values(changes in prop::collection::vec((any::<Index>(), json_value()), 1..4)) {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config();
        let keys: Vec<String> = config.as_object().unwrap().keys().cloned().collect();
        for (key, value) in changes {
            config[&keys[key.index(keys.len())]] = value;
        }
        fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        fs::write(dir.path().join("model.safetensors"), weights()).unwrap();
        survives(dir.path())?;
    }

    /// A header that says more than the file has must not be believed: its length, shapes and offsets are random.
    #[test]
    fn headers_with_random_numbers(length in any::<u64>(), shape in prop::collection::vec(any::<u64>(), 0..10),
                                   offsets in any::<(u64, u64)>(), honest_length in any::<bool>()) {
        let header = json!({"w": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}).to_string();
        let length = if honest_length { header.len() as u64 } else { length };
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), config().to_string()).unwrap();
        let file = [&length.to_le_bytes()[..], header.as_bytes(), &[0; 64]].concat();
        fs::write(dir.path().join("model.safetensors"), file).unwrap();
        survives(dir.path())?;
    }
}
