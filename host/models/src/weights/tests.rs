//! Changing the dtype of a directory, judged by the half crate's own rounding and the safetensors crate's reader.
use super::*;
use half::{bf16, f16};
use safetensors::SafeTensors;
use serde_json::json;

/// Values whose rounding is not obvious: ties, subnormals of each format, infinities, the largest of f16.
fn values() -> Vec<f32> {
    let hard =
        [0.0, -0.0, 1.0, 1.003_906_2, 1.011_718_7, 65_504.0, -65_519.0, 6e-8, 3e-8, 1e-40, 0.1, -1.0 / 3.0];
    let many = (0..500u32).map(|i| (f32::from_bits(0x3f80_0000 + i * 16_381) - 1.5) * 0.02);
    hard.into_iter().chain(many).chain([f32::INFINITY, f32::NEG_INFINITY]).collect()
}

fn file(path: &Path, tensors: &[(&str, Dtype, &[f32])], ids: &[u8]) {
    let entry = |name: &str, dtype: &str, shape: Vec<usize>, bytes: usize| Entry {
        name: name.into(),
        dtype: dtype.into(),
        shape,
        bytes: bytes as u64,
    };
    let mut entries: Vec<Entry> = tensors
        .iter()
        .map(|(name, dtype, x)| entry(name, dtype.safetensors(), vec![x.len()], x.len() * dtype.size()))
        .collect();
    entries.push(entry("ids", "U8", vec![ids.len()], ids.len()));
    write(path, &entries, "test", &mut |_| {}, |i, out| {
        match tensors.get(i) {
            Some((_, dtype, x)) => dtype.encode(x, out).unwrap(),
            None => out.extend(ids),
        }
        Ok(())
    })
    .unwrap();
}

fn folder(key: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), json!({"a": 1, key: "float32", "z": [2]}).to_string()).unwrap();
    dir
}

/// dtype and bytes of a tensor as another reader sees them.
fn tensor(path: &Path, name: &str) -> (String, Vec<u8>) {
    let bytes = fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let view = tensors.tensor(name).unwrap();
    (view.dtype().to_string(), view.data().to_vec())
}

fn bytes<const N: usize>(values: &[f32], encode: impl Fn(f32) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&x| encode(x)).collect()
}

#[test]
fn a_single_file_is_rounded_as_half_rounds_and_widened_without_loss() {
    let values = values();
    for (dtype, narrow) in [
        (Dtype::Bf16, bytes(&values, |x| bf16::from_f32(x).to_le_bytes())),
        (Dtype::F16, bytes(&values, |x| f16::from_f32(x).to_le_bytes())),
    ] {
        let dir = folder("torch_dtype");
        let path = dir.path().join("model.safetensors");
        file(&path, &[("w", Dtype::F32, &values)], &[1, 2, 3]);
        set_dtype(dir.path(), dtype, &mut |_| {}).unwrap();
        assert_eq!(tensor(&path, "w"), (dtype.safetensors().to_string(), narrow.clone()));
        assert_eq!(tensor(&path, "ids"), ("U8".to_string(), vec![1, 2, 3]));

        set_dtype(dir.path(), Dtype::F32, &mut |_| {}).unwrap();
        let mut wide = Vec::new();
        dtype.decode(&narrow, &mut wide);
        assert_eq!(tensor(&path, "w"), ("F32".to_string(), bytes(&wide, f32::to_le_bytes)));
        // And back: rounding what is rounded changes nothing.
        set_dtype(dir.path(), dtype, &mut |_| {}).unwrap();
        assert_eq!(tensor(&path, "w").1, narrow);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "a scratch file is left");
    }
}

#[test]
fn every_shard_of_an_index_is_rewritten_and_the_rest_of_the_config_stays() {
    let values = values();
    let dir = folder("dtype");
    let (a, b) = (dir.path().join("model-1.safetensors"), dir.path().join("model-2.safetensors"));
    file(&a, &[("x", Dtype::F32, &values), ("y", Dtype::Bf16, &[0.5, 3.0])], &[7]);
    file(&b, &[("z", Dtype::F16, &[0.25, -8.0])], &[8]);
    let index = json!({"weight_map": {"x": "model-1.safetensors", "z": "model-2.safetensors"}}).to_string();
    let index_path = dir.path().join("model.safetensors.index.json");
    fs::write(&index_path, &index).unwrap();
    set_dtype(dir.path(), Dtype::Bf16, &mut |_| {}).unwrap();
    assert_eq!(tensor(&a, "x"), ("BF16".into(), bytes(&values, |x| bf16::from_f32(x).to_le_bytes())));
    assert_eq!(tensor(&a, "y"), ("BF16".into(), bytes(&[0.5, 3.0], |x| bf16::from_f32(x).to_le_bytes())));
    assert_eq!(tensor(&b, "z"), ("BF16".into(), bytes(&[0.25, -8.0], |x| bf16::from_f32(x).to_le_bytes())));
    assert_eq!(fs::read_to_string(index_path).unwrap(), index);
    let config: Value = serde_json::from_slice(&fs::read(dir.path().join("config.json")).unwrap()).unwrap();
    assert_eq!(config, json!({"a": 1, "dtype": "bfloat16", "z": [2]}));
}

#[test]
fn what_f16_cannot_hold_is_an_error_that_names_the_tensor() {
    for (x, dtype) in [(65_520.0, Dtype::F16), (-1e6, Dtype::F16), (f32::MAX, Dtype::Bf16)] {
        let dir = folder("torch_dtype");
        let path = dir.path().join("model.safetensors");
        file(&path, &[("big", Dtype::F32, &[1.0, x])], &[0]);
        let error = set_dtype(dir.path(), dtype, &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("tensor big") && error.contains(&format!("too large for {dtype}")), "{error}");
        assert_eq!(tensor(&path, "big").0, "F32", "the file was touched");
    }
}
