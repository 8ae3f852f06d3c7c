//! The default model from its real source (the network, or pip's cache), converted and looked at from outside.
#![allow(clippy::unwrap_used)]
use std::path::Path;
use tokenmill_models::{Cache, DEFAULT_MODEL, Dtype, Event, ModelDir, check};

/// All tests that need real weights share the user's cache, so that they are fetched once.
fn pull(dtype: Dtype) -> ModelDir {
    Cache::from_env().unwrap().pull(DEFAULT_MODEL, dtype, &mut |_| {}).unwrap()
}

#[test]
fn the_converted_tokenizer_equals_the_reference() {
    let tokenizer = tokenizers::Tokenizer::from_file(pull(Dtype::F32).path.join("tokenizer.json")).unwrap();
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/smollm2/tokenizer.json");
    let cases: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(cases).unwrap()).unwrap();
    assert_eq!(cases.len(), 15);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let ids = tokenizer.encode_fast(text, false).unwrap().get_ids().to_vec();
        assert_eq!(serde_json::json!(ids), case["ids"], "{text:?}");
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), case["decoded"].as_str().unwrap());
    }
}

#[test]
fn the_converted_directory_is_complete() {
    let model = pull(Dtype::F32);
    assert_eq!(model.name, "HuggingFaceTB/SmolLM2-135M-Instruct");
    let report = check(&model.path).unwrap();
    assert_eq!((report.tensors, report.weight_bytes), (272, 134_515_008 * 4));
    let read = |file: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(model.path.join(file)).unwrap()).unwrap()
    };
    let config = read("config.json");
    assert_eq!((&config["rope_theta"], &config["rms_norm_eps"]), (&100_000.0.into(), &1e-5.into()));
    assert_eq!((&config["torch_dtype"], &config["tie_word_embeddings"]), (&"float32".into(), &true.into()));
    assert_eq!(read("generation_config.json")["eos_token_id"], 2);
    let template = read("tokenizer_config.json")["chat_template"].clone();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/chat/smollm2.json");
    let fixture: serde_json::Value = serde_json::from_slice(&std::fs::read(fixture).unwrap()).unwrap();
    assert_eq!(template, fixture["template"]);
}

#[test]
fn a_pull_reports_progress_and_a_cached_model_is_found_without_one() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path());
    assert_eq!(cache.find(DEFAULT_MODEL, Dtype::Bf16).unwrap(), None);
    let mut progress = Vec::new();
    let pulled = cache
        .pull("smollm2-135m-instruct", Dtype::Bf16, &mut |event| {
            if let Event::Progress { phase, done, total: Some(total) } = event {
                assert!(done <= total, "{phase}: {done} of {total}");
                progress.push((phase.to_string(), done == total));
            }
        })
        .unwrap();
    assert_eq!(
        progress.last().map(|(phase, whole)| (phase.as_str(), *whole)),
        Some(("convert to bf16", true))
    );
    assert_eq!(cache.find(DEFAULT_MODEL, Dtype::Bf16).unwrap(), Some(pulled.clone()));
    assert_eq!(cache.find(DEFAULT_MODEL, Dtype::F32).unwrap(), None);
    // The same model by path, and in the list; nothing else is left behind.
    assert_eq!(cache.find(pulled.path.to_str().unwrap(), Dtype::F16).unwrap().unwrap().path, pulled.path);
    let list = cache.list().unwrap();
    assert_eq!((list.len(), list[0].dtype, &list[0].path), (1, Dtype::Bf16, &pulled.path));
    assert!(list[0].bytes > 2 * 134_515_008);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);

    // bf16 weights are the f32 ones, rounded.
    let (narrow, wide) = (tensor(&pulled.path), tensor(&pull(Dtype::F32).path));
    let rounded: Vec<u8> = wide
        .as_chunks::<4>()
        .0
        .iter()
        .flat_map(|b| half::bf16::from_f32(f32::from_le_bytes(*b)).to_le_bytes())
        .collect();
    assert_eq!(narrow, rounded);
}

/// The bytes of one projection.
fn tensor(dir: &Path) -> Vec<u8> {
    let file = std::fs::read(dir.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    tensors.tensor("model.layers.29.self_attn.k_proj.weight").unwrap().data().to_vec()
}
