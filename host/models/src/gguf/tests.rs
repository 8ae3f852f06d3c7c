//! Values against the `gguf` package, and files that lie about themselves.
use super::*;
use proptest::prelude::*;
use std::path::Path;

#[test]
fn every_format_equals_the_gguf_package_bit_for_bit() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/gguf/dequantize.json");
    let file: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases = file["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 10);
    for case in cases {
        let quant = Quant::from_code(case["type"].as_u64().unwrap() as u32).unwrap();
        let bytes: Vec<u8> = serde_json::from_value(case["bytes"].clone()).unwrap();
        let expected: Vec<u32> = serde_json::from_value(case["bits"].clone()).unwrap();
        let mut values = Vec::new();
        quant.dequantize(&bytes, &mut values);
        let bits: Vec<u32> = values.iter().map(|x| x.to_bits()).collect();
        assert_eq!(bits, expected, "{}", case["name"]);
    }
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn head(tensors: u64, keys: u64) -> Vec<u8> {
    [&b"GGUF"[..], &3u32.to_le_bytes(), &tensors.to_le_bytes(), &keys.to_le_bytes()].concat()
}

/// A tensor's entry: dimensions as ggml orders them, ggml's type, offset.
fn entry(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let dims_bytes: Vec<u8> = dims.iter().flat_map(|d| d.to_le_bytes()).collect();
    let count = (dims.len() as u32).to_le_bytes();
    [&string(name)[..], &count, &dims_bytes, &kind.to_le_bytes(), &offset.to_le_bytes()].concat()
}

/// A file with one key, one f32 tensor `t` of shape [3, 2], and its data.
fn honest() -> Vec<u8> {
    let key = [&string("k")[..], &4u32.to_le_bytes(), &7u32.to_le_bytes()].concat();
    let mut file = [head(1, 1), key, entry("t", &[2, 3], 0, 0)].concat();
    file.resize(file.len().next_multiple_of(32), 0);
    (0..6).for_each(|x| file.extend((x as f32).to_le_bytes()));
    file
}

#[test]
fn an_honest_file_opens_and_every_truncation_of_it_fails() {
    let file = honest();
    let gguf = Gguf::parse(&file).unwrap();
    assert_eq!(gguf.need("k", Value::u64), Ok(7));
    assert_eq!((gguf.tensors[0].name, &gguf.tensors[0].shape[..]), ("t", &[3, 2][..]));
    for len in 0..file.len() {
        assert!(Gguf::parse(&file[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn lies_are_refused_by_name() {
    let one = |tensor: Vec<u8>| {
        let mut file = [head(1, 0), tensor].concat();
        file.resize(file.len().next_multiple_of(32) + 64, 0);
        file
    };
    let key = |code: u32, rest: &[u8]| [&head(0, 1)[..], &string("k"), &code.to_le_bytes(), rest].concat();
    let array = |code: u32, count: u64| [&code.to_le_bytes()[..], &count.to_le_bytes()].concat();
    let twice = [head(2, 0), entry("t", &[2], 0, 0), entry("t", &[2], 0, 0), vec![0; 128]].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("more than a model has", head(u64::MAX, 0)),
        ("more than a model has", head(0, u64::MAX)),
        ("inside its header", key(8, &(u64::MAX / 2).to_le_bytes())),
        ("an array of", key(9, &array(4, u64::MAX))),
        ("does not exist", key(99, &[])),
        (
            "nest too deep",
            key(9, &[array(9, 1), array(9, 1), array(9, 1), array(9, 1), array(0, 0)].concat()),
        ),
        ("overflows", one(entry("t", &[1 << 33, 1 << 33], 0, 0))),
        ("zero", one(entry("t", &[0, u64::MAX], 0, 0))),
        ("dimensions", one(entry("t", &[1; 5], 0, 0))),
        ("beyond the end", one(entry("t", &[1 << 40], 0, 0))),
        ("overflows", one(entry("t", &[8], 0, u64::MAX - 31))),
        ("not aligned", one(entry("t", &[2], 0, 4))),
        ("blocks of 32", one(entry("t", &[33], 8, 0))),
        ("not supported", one(entry("t", &[2], 77, 0))),
        ("twice", twice),
    ];
    for (expected, file) in cases {
        let error = Gguf::parse(&file).unwrap_err();
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// A damaged file opens or is refused, and what opens lies within the file.
    #[test]
    fn damage_never_panics(bytes in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 1..5), cut in any::<prop::sample::Index>()) {
        let mut file = honest();
        for (at, byte) in bytes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        file.truncate(file.len() - cut.index(file.len()) / 8);
        if let Ok(gguf) = Gguf::parse(&file) {
            let held: usize = gguf.tensors.iter().map(|t| t.data.len()).sum();
            prop_assert!(held <= file.len());
            let mut values = Vec::new();
            gguf.tensors.iter().for_each(|t| t.quant.dequantize(t.data, &mut values));
        }
    }
}
