//! Streaming gives what a batch decode gives, whatever the tokens.
#![allow(clippy::unwrap_used)]
use proptest::prelude::*;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};
use tokenmill_text::{Detokenizer, StopMatcher, Tokenizer};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/llama-gqa")
}

/// A tokenizer of SentencePiece shape: ▁ for spaces, byte fallback, one leading space stripped.
fn sentencepiece(decoder: &str) -> Arc<Tokenizer> {
    let mut vocab = serde_json::Map::new();
    let mut add = |token: String| {
        let id = vocab.len();
        vocab.insert(token, id.into());
    };
    ["<unk>", "<s>", "</s>"].into_iter().for_each(|t| add(t.into()));
    (0..=255).for_each(|b| add(format!("<0x{b:02X}>")));
    ["▁", "▁the", "▁cat", "s", "▁▁", "é", "日本", "."].into_iter().for_each(|t| add(t.into()));
    let special = |id: u32, content: &str| {
        serde_json::json!({"id": id, "content": content, "special": true, "single_word": false,
                           "lstrip": false, "rstrip": false, "normalized": false})
    };
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null, "post_processor": null,
        "decoder": serde_json::from_str::<serde_json::Value>(decoder).unwrap(),
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocab, "merges": []},
    });
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    Arc::new(Tokenizer::from_dir(dir.path()).unwrap())
}

const LLAMA2: &str = r#"{"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}"#;
const METASPACE: &str =
    r#"{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}"#;

static BYTE_LEVEL: LazyLock<Arc<Tokenizer>> =
    LazyLock::new(|| Arc::new(Tokenizer::from_dir(&folder()).unwrap()));
static SENTENCEPIECE: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| sentencepiece(LLAMA2));
static WINDOWED: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| sentencepiece(METASPACE));

fn stream(tokenizer: &Arc<Tokenizer>, ids: &[u32], skip_special: bool) -> String {
    let mut detokenizer = Detokenizer::new(tokenizer.clone(), skip_special);
    let mut text: String = ids.iter().map(|&id| detokenizer.push(id).to_string()).collect();
    text.push_str(detokenizer.flush());
    text
}

fn reference(tokenizer_json: &Path) -> tokenizers::Tokenizer {
    tokenizers::Tokenizer::from_file(tokenizer_json).unwrap()
}

static REFERENCE: LazyLock<tokenizers::Tokenizer> =
    LazyLock::new(|| reference(&folder().join("tokenizer.json")));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn byte_level_streaming_equals_the_reference_decoder(ids in prop::collection::vec(0u32..330, 0..40), skip: bool) {
        let expected = REFERENCE.decode(&ids, skip).unwrap();
        prop_assert_eq!(&stream(&BYTE_LEVEL, &ids, skip), &expected);
        prop_assert_eq!(&BYTE_LEVEL.decode(&ids, skip).unwrap(), &expected);
    }

    #[test]
    fn sentencepiece_streaming_equals_batch(ids in prop::collection::vec(0u32..270, 0..40), skip: bool) {
        prop_assert_eq!(stream(&SENTENCEPIECE, &ids, skip), SENTENCEPIECE.decode(&ids, skip).unwrap());
    }

    #[test]
    fn windowed_streaming_equals_batch(ids in prop::collection::vec(259u32..267, 0..40), skip: bool) {
        prop_assert_eq!(stream(&WINDOWED, &ids, skip), WINDOWED.decode(&ids, skip).unwrap());
    }

    #[test]
    fn any_text_survives_a_round_trip(text in "\\PC*") {
        for tokenizer in [&*BYTE_LEVEL, &*SENTENCEPIECE] {
            let ids = tokenizer.encode_plain(&text, false).unwrap();
            prop_assert_eq!(&stream(tokenizer, &ids, false), &text);
        }
    }

    #[test]
    fn no_piece_ends_inside_a_character(text in "[a-zé日👍🏽 ]{0,20}") {
        let ids = BYTE_LEVEL.encode(&text, false).unwrap();
        let mut detokenizer = Detokenizer::new(BYTE_LEVEL.clone(), true);
        let mut so_far = String::new();
        for id in ids {
            so_far.push_str(detokenizer.push(id));
            prop_assert!(text.starts_with(&so_far));
        }
        prop_assert_eq!(detokenizer.flush(), "");
    }

    /// The stop matcher must not depend on where tokens are cut: one piece, or one piece per character.
    #[test]
    fn stop_matching_does_not_depend_on_cuts(
        text in "[ab\né]{0,30}",
        stops in prop::collection::vec("[ab\né]{1,4}", 1..4),
        include: bool,
    ) {
        let mut whole = StopMatcher::new(&stops, include);
        let first = whole.push(&text);
        let (mut expected, hit) = (first.text.to_string(), first.matched);
        if hit.is_none() {
            expected.push_str(whole.flush());
        }
        let mut pieces = StopMatcher::new(&stops, include);
        let (mut got, mut found) = (String::new(), None);
        for c in text.chars() {
            let out = pieces.push(c.encode_utf8(&mut [0; 4]));
            got.push_str(out.text);
            found = found.or(out.matched);
        }
        if found.is_none() {
            got.push_str(pieces.flush());
        }
        prop_assert_eq!(&got, &expected);
        prop_assert_eq!(found, hit);
        // The naive answer: the first end of any stop string, the longest of those that end there.
        let ends = text.char_indices().map(|(i, c)| i + c.len_utf8());
        let naive = ends.into_iter().find_map(|end| {
            stops.iter().filter(|s| text[..end].ends_with(s.as_str())).map(|s| s.len()).max().map(|n| (end - n, end))
        });
        prop_assert_eq!(naive.map(|(start, _)| start), found.map(|m| m.position));
        let kept = naive.map_or(text.len(), |(start, end)| if include { end } else { start });
        prop_assert_eq!(&got, &text[..kept]);
    }
}

#[test]
fn text_that_may_become_a_stop_string_is_held_back() {
    let mut matcher = StopMatcher::new(&["###".into(), "\n\nUser:".into()], false);
    assert_eq!(matcher.push("a#").text, "a");
    assert_eq!(matcher.push("b\n").text, "#b");
    assert_eq!(matcher.push("\nUs").text, "");
    assert_eq!(matcher.push("e!").text, "\n\nUse!");
    assert_eq!(matcher.push("##").text, "");
    let last = matcher.push("#x");
    assert_eq!((last.text, last.matched.map(|m| (m.stop, m.position))), ("", Some((0, 9))));
    assert_eq!(matcher.push("more").text, "");
    assert_eq!(matcher.flush(), "");
}

#[test]
fn sentencepiece_bytes_and_spaces_are_exact() {
    let t = &*SENTENCEPIECE;
    let id = |token: &str| (0..270).find(|&i| t.token_text(i).as_deref() == Some(token)).unwrap();
    assert_eq!(t.token_bytes(id("▁the")).unwrap(), b" the");
    assert_eq!(t.token_bytes(id("<0xE2>")).unwrap(), [0xE2]);
    let euro = [id("▁the"), id("<0xE2>"), id("<0x82>"), id("<0xAC>"), id("▁cat")];
    assert_eq!(t.decode(&euro, false).unwrap(), "the€ cat");
    // After a prompt the first word keeps its space.
    let mut detokenizer = Detokenizer::continuing(t.clone(), &[id("▁the")], true);
    assert_eq!(detokenizer.push(id("▁cat")), " cat");
    let mut detokenizer = Detokenizer::continuing(WINDOWED.clone(), &[id("▁the")], true);
    assert_eq!(detokenizer.push(id("▁cat")), " cat");
}
