//! Hostile configurations and weight files: a clear error that names the key or file, never a panic,
//! a hang or a large allocation.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::HashMap;

use serde_json::{Value, json};
use tokenmill_backend_model::config::Config;
use tokenmill_backend_model::error::Error;
use tokenmill_backend_model::safetensors::entries;
use tokenmill_backend_model::source::Source;
use tokenmill_backend_model::weights::Weights;

fn file(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + data, 0);
    file
}

fn tensor(shape: &Value, start: u64, end: u64) -> Value {
    json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]})
}

fn one(shape: &Value, start: u64, end: u64, data: usize) -> Vec<u8> {
    file(&json!({"x": tensor(shape, start, end)}).to_string(), data)
}

fn refused(what: &str, bytes: &[u8]) -> String {
    let error = entries("w.safetensors", bytes).err().unwrap_or_else(|| panic!("accepted: {what}"));
    let text = error.to_string();
    assert!(text.starts_with("w.safetensors: "), "{what}: {text}");
    text
}

#[test]
fn truncated_anywhere_is_refused() {
    let whole = one(&json!([2, 2]), 0, 16, 16);
    assert_eq!(entries("w.safetensors", &whole).unwrap().len(), 1);
    for len in 0..whole.len() {
        refused(&format!("{len} bytes"), &whole[..len]);
    }
    let longer = [&whole[..], &[0]].concat();
    refused("a byte too many", &longer);
}

#[test]
fn header_length_is_bounded() {
    for len in [u64::MAX, 1 << 62, (16 << 20) + 1] {
        let text = refused("header length", &[&len.to_le_bytes()[..], &[b' '; 64]].concat());
        assert!(text.contains(&len.to_string()), "{text}");
    }
}

#[test]
fn offsets_and_shapes_must_agree() {
    let two = |a: [u64; 2], b: [u64; 2], data| {
        let header = json!({"a": tensor(&json!([2]), a[0], a[1]), "b": tensor(&json!([2]), b[0], b[1])});
        file(&header.to_string(), data)
    };
    assert!(entries("w", &two([0, 8], [8, 16], 16)).is_ok());
    refused("overlap", &two([0, 8], [4, 12], 12));
    refused("hole", &two([0, 8], [12, 20], 20));
    refused("beyond the end", &one(&json!([4]), 0, 16, 8));
    refused("end before start", &one(&json!([2]), 8, 0, 8));
    refused("size disagrees", &one(&json!([3]), 0, 8, 8));
    refused("negative", &one(&json!([-1]), 0, 8, 8));
    refused("product overflow", &one(&json!([1_u64 << 40, 1_u64 << 40]), 0, 8, 8));
    assert!(refused("empty", &one(&json!([0]), 0, 0, 0)).contains("empty dimension"));
    refused("empty and huge", &one(&json!([0, u64::MAX]), 0, 0, 0));
    assert!(refused("many", &one(&json!(vec![1; 1000]), 0, 4, 4)).contains("1000 dimensions"));
    refused("unknown type", &file(r#"{"x":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}}"#, 4));
    refused("not an object", &file("[1,2]", 0));
    refused("deep", &file(&"[".repeat(100_000), 0));
}

#[test]
fn duplicate_names_are_refused() {
    let entry = tensor(&json!([1]), 0, 4);
    let text = refused("duplicate", &file(&format!(r#"{{"x":{entry},"x":{entry}}}"#), 4));
    assert!(text.contains("x appears twice"), "{text}");
}

#[test]
fn a_million_tensors_are_refused_at_once() {
    let mut header = String::from("{");
    for i in 0..200_000 {
        let comma = if i == 0 { "" } else { "," };
        header += &format!(r#"{comma}"{i}":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{}]}}"#, i + 1);
    }
    header.push('}');
    assert!(header.len() < 16 << 20);
    let text = refused("200,000 tensors", &file(&header, 200_000));
    assert!(text.contains("65536"), "{text}");
}

/// Files in memory; any other name is a failure of the test.
struct Files(HashMap<String, Vec<u8>>);

impl Source for Files {
    type Bytes = Vec<u8>;
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        assert!(!name.contains(['/', '\\']), "asked for {name}");
        Ok(self.0.get(name).cloned())
    }
}

fn indexed(map: Value, shards: &[(&str, Vec<u8>)]) -> Result<Weights<Vec<u8>>, Error> {
    let index = json!({"weight_map": map}).to_string().into_bytes();
    let mut files = HashMap::from([("model.safetensors.index.json".to_owned(), index)]);
    files.extend(shards.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())));
    Weights::open(&Files(files))
}

#[test]
fn shards_stay_within_the_directory_and_are_complete() {
    let shard = || one(&json!([1]), 0, 4, 4);
    assert!(indexed(json!({"x": "a.safetensors"}), &[("a.safetensors", shard())]).is_ok());
    for name in [
        "../../etc/passwd",
        "/etc/passwd",
        "../a.safetensors",
        "d/a.safetensors",
        "a.bin",
        "..\\a.safetensors",
    ] {
        let text = indexed(json!({"x": name}), &[]).err().unwrap().to_string();
        assert!(text.contains("is not the name of a safetensors file"), "{text}");
    }
    let cases = [
        ("shard a.safetensors is missing", indexed(json!({"x": "a.safetensors"}), &[])),
        ("y is in no shard", indexed(json!({"y": "a.safetensors"}), &[("a.safetensors", shard())])),
        (
            "x is in another shard too",
            indexed(
                json!({"x": "a.safetensors", "y": "b.safetensors"}),
                &[("a.safetensors", shard()), ("b.safetensors", shard())],
            ),
        ),
        ("index.json", indexed(json!([1]), &[])),
        ("neither", Weights::open(&Files(HashMap::new()))),
    ];
    for (named, result) in cases {
        let text = result.err().unwrap().to_string();
        assert!(text.contains(named), "{text}");
    }
}

#[test]
fn shape_and_type_must_be_what_the_configuration_asks() {
    let bytes = file(r#"{"x":{"dtype":"I32","shape":[2,2],"data_offsets":[0,16]}}"#, 16);
    let weights = Weights::open(&Files(HashMap::from([("model.safetensors".to_owned(), bytes)]))).unwrap();
    let says = |error: Option<Error>| error.unwrap().to_string();
    assert!(says(weights.matrix("x", 2, 3).err()).contains("tensor x has shape [2, 2]"));
    assert!(says(weights.matrix("x", 2, 2).err()).contains("tensor x has element type"));
    assert!(says(weights.vector("y", 2).err()).contains("tensor y is missing"));
}

fn llama() -> Value {
    json!({
        "model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_hidden_layers": 2, "intermediate_size": 32, "vocab_size": 256, "max_position_embeddings": 128,
    })
}

fn config_error(config: &Value) -> String {
    let parsed = Config::parse(config.to_string().as_bytes());
    parsed.err().unwrap_or_else(|| panic!("accepted: {config}")).to_string()
}

#[test]
fn every_number_of_a_configuration_is_checked_and_named() {
    assert!(Config::parse(llama().to_string().as_bytes()).is_ok());
    let counts = [
        "hidden_size",
        "num_attention_heads",
        "num_key_value_heads",
        "num_hidden_layers",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
        "head_dim",
    ];
    let wrong = [
        json!(-1),
        json!(0),
        json!(1_u64 << 31),
        json!(u64::MAX),
        json!(1e308),
        json!(0.5),
        json!("4"),
        json!([]),
    ];
    for key in counts {
        for value in &wrong {
            let mut config = llama();
            config[key] = value.clone();
            let text = config_error(&config);
            assert!(text.contains(key), "{key} = {value}: {text}");
        }
    }
    for key in
        ["hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size", "max_position_embeddings"]
    {
        let mut config = llama();
        config[key] = Value::Null;
        assert_eq!(config_error(&config), format!("config.json: {key} is missing"));
    }
}

#[test]
fn other_keys_are_checked_and_named() {
    let linear = |factor: Value| json!({"rope_type": "linear", "factor": factor});
    let cases = [
        ("rope_theta", json!(0)),
        ("rope_theta", json!("NaN")),
        ("rope_theta", json!(-1e4)),
        ("rms_norm_eps", json!(-1)),
        ("tie_word_embeddings", json!(1)),
        ("hidden_act", json!(3)),
        ("hidden_act", json!("relu6")),
        ("head_dim", json!(15)),
        ("partial_rotary_factor", json!(2)),
        ("num_key_value_heads", json!(3)),
        ("factor", linear(json!(0))),
        ("factor", linear(Value::Null)),
        ("rope_type", json!({"rope_type": "spiral", "factor": 2})),
        ("short_factor", json!({"rope_type": "longrope", "short_factor": [1], "long_factor": [1]})),
        ("model_type", json!("gpt2")),
        ("quantization_config", json!({"quant_method": "awq"})),
    ];
    for (key, value) in cases {
        let mut config = llama();
        let at = if value.is_object() && key != "quantization_config" { "rope_scaling" } else { key };
        config[at] = value.clone();
        let text = config_error(&config);
        assert!(text.contains(key), "{key}: {text}");
    }
    for bytes in [&b""[..], b"[]", b"{", "[".repeat(100_000).as_bytes(), b"\xff"] {
        assert!(Config::parse(bytes).unwrap_err().to_string().starts_with("config.json: "));
    }
}
