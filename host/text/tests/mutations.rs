//! Tokenizer and template files with random damage: an error or a tokenizer that works, never a panic, and little memory.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#[path = "../../models/tests/peak/mod.rs"]
mod peak;

use proptest::{prelude::*, sample::Index};
use serde_json::{Value, json};
use std::{fs, path::Path};
use tokenmill_text::{Chat, ChatTemplate, Tokenizer};

/// Most memory that loading the 10 KB tokenizer of the fixtures may take, however it is damaged.
const MEMORY: usize = 32 << 20;
/// Most memory that the smallest conversation may take: its fuel pays for 26 MB.
const RENDER_MEMORY: usize = 64 << 20;

fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)).unwrap()
}

fn flipped(mut file: Vec<u8>, bytes: &[(Index, u8)]) -> Vec<u8> {
    for (at, byte) in bytes {
        let at = at.index(file.len());
        file[at] = *byte;
    }
    file
}

fn flips() -> impl Strategy<Value = Vec<(Index, u8)>> {
    // Mostly bytes that mean something to a JSON or template reader.
    let byte = prop_oneof![any::<u8>(), prop::sample::select(b"0123456789[]{}\",:%-'|~+*()".to_vec())];
    prop::collection::vec((any::<Index>(), byte), 1..5)
}

fn templates() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/chat");
    let files = fs::read_dir(folder).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
    files
        .filter_map(|file| {
            serde_json::from_slice::<Value>(&file).ok()?["template"].as_str().map(str::to_owned)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_tokenizers(flips in flips()) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tokenizer.json"), flipped(fixture("models/llama-gqa/tokenizer.json"), &flips)).unwrap();
        let (loaded, memory) = peak::peak(|| Tokenizer::from_dir(dir.path()));
        prop_assert!(memory < MEMORY, "{memory} bytes");
        if let Ok(tokenizer) = loaded {
            let ids = tokenizer.encode("Hello <|im_end|> wörld \u{1F44D}\n\t  123", true).unwrap_or_default();
            prop_assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
            let _ = tokenizer.decode(&ids, false);
            let _ = tokenizer.decode(&[0, u32::MAX, 7], true);
        }
    }

    #[test]
    fn damaged_settings(config in flips(), generation in flips()) {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| fixture(&format!("models/llama-gqa/{name}"));
        fs::write(dir.path().join("tokenizer.json"), file("tokenizer.json")).unwrap();
        fs::write(dir.path().join("tokenizer_config.json"), flipped(file("tokenizer_config.json"), &config)).unwrap();
        fs::write(dir.path().join("generation_config.json"), flipped(file("generation_config.json"), &generation)).unwrap();
        let ((), memory) = peak::peak(|| {
            let _ = Tokenizer::from_dir(dir.path());
            let _ = ChatTemplate::from_dir(dir.path());
        });
        prop_assert!(memory < MEMORY, "{memory} bytes");
    }

    #[test]
    fn damaged_templates(which in any::<Index>(), flips in flips()) {
        let templates = templates();
        let source = flipped(templates[which.index(templates.len())].clone().into_bytes(), &flips);
        let messages = [json!({"role": "user", "content": "hi"}), json!({"role": "assistant", "content": "ho"})];
        let chat = Chat { messages: &messages, add_generation_prompt: true, ..Chat::default() };
        let ((), memory) = peak::peak(|| {
            if let Ok(template) = ChatTemplate::new(&String::from_utf8_lossy(&source), &serde_json::Map::new()) {
                let _ = template.render(&chat);
            }
        });
        prop_assert!(memory < RENDER_MEMORY, "{memory} bytes");
    }
}
