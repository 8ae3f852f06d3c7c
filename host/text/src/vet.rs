//! Looks through tokenizer.json before the `tokenizers` crate does: shapes known to make that crate panic,
//! abort or run without bound are refused here, each by name.
use serde::Deserialize;
use serde_json::Value;

/// The parts of tokenizer.json that are looked at; vocabularies are skipped unread.
#[derive(Deserialize)]
pub(crate) struct Parts {
    #[serde(default)]
    pub(crate) added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    pub(crate) decoder: Value,
}

#[derive(Deserialize)]
pub(crate) struct Added {
    pub(crate) id: u32,
    pub(crate) content: String,
}

/// How much longer the normalizer may make a text.
const MAX_GROWTH: usize = 1024;

/// Refuses known hostile shapes; the reason names the key.
pub(crate) fn vet(parts: &Parts) -> Result<(), String> {
    let mut growth = 1usize;
    for (key, part) in [
        ("normalizer", &parts.normalizer),
        ("pre_tokenizer", &parts.pre_tokenizer),
        ("post_processor", &parts.post_processor),
        ("decoder", &parts.decoder),
    ] {
        walk(part, &mut |node| vet_node(key, node, &mut growth))?;
    }
    Ok(())
}

/// Visits every object that has a `type`.
fn walk(value: &Value, visit: &mut impl FnMut(&Value) -> Result<(), String>) -> Result<(), String> {
    match value {
        Value::Object(map) => {
            if map.contains_key("type") {
                visit(value)?;
            }
            map.values().try_for_each(|v| walk(v, visit))
        }
        Value::Array(items) => items.iter().try_for_each(|v| walk(v, visit)),
        _ => Ok(()),
    }
}

fn vet_node(key: &str, node: &Value, growth: &mut usize) -> Result<(), String> {
    let text_len = |name: &str| node[name].as_str().map_or(0, str::len);
    match node["type"].as_str().unwrap_or_default() {
        "FixedLength" if node["length"] == 0 => Err(format!("{key}: FixedLength: length must be at least 1")),
        "Strip" if key == "decoder" && node["stop"].as_u64() != Some(0) => {
            Err(format!("{key}: Strip: stop must be 0 (a token may be shorter)"))
        }
        "Precompiled" => charsmap_fits(node["precompiled_charsmap"].as_str().unwrap_or_default())
            .then_some(())
            .ok_or_else(|| format!("{key}: Precompiled: precompiled_charsmap is broken")),
        "TemplateProcessing" => {
            special_tokens_exist(node).map_err(|e| format!("{key}: TemplateProcessing: {e}"))
        }
        "Replace" | "Prepend" => {
            let pattern = node["pattern"]["String"].as_str().map_or(1, str::len);
            if node["pattern"]["String"] == "" {
                return Err(format!("{key}: Replace: pattern must not be empty"));
            }
            *growth = growth.saturating_mul((text_len("content") / pattern).max(1) + text_len("prepend"));
            if *growth > MAX_GROWTH {
                return Err(format!("{key}: replacements make the text more than {MAX_GROWTH} times longer"));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The charsmap is base64 of a little-endian u32, the size of a trie in bytes, then the trie, then text
/// (SentencePiece). The tokenizers crate allocates what the size says before it reads.
fn charsmap_fits(base64: &str) -> bool {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => Some(u32::from(c - b'A')),
        b'a'..=b'z' => Some(u32::from(c - b'a') + 26),
        b'0'..=b'9' => Some(u32::from(c - b'0') + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let head: Option<Vec<u32>> = base64.bytes().take(6).map(digit).collect();
    let Some(&[a, b, c, d, e, f]) = head.as_deref() else { return false };
    // Six digits hold 36 bits; the first 32 are the size.
    let bits = [a, b, c, d, e, f].iter().fold(0u64, |acc, &d| acc << 6 | u64::from(d)) >> 4;
    let size = u64::from((bits as u32).swap_bytes());
    size >= 4 && size % 4 == 0 && size + 4 <= base64.len() as u64 / 4 * 3
}

fn special_tokens_exist(node: &Value) -> Result<(), String> {
    let pieces = ["single", "pair"].iter().filter_map(|k| node[k].as_array()).flatten();
    for id in pieces.filter_map(|piece| piece["SpecialToken"]["id"].as_str()) {
        let token = &node["special_tokens"][id];
        let (ids, tokens) = (token["ids"].as_array(), token["tokens"].as_array());
        match (ids, tokens) {
            (Some(ids), Some(tokens)) if !ids.is_empty() && ids.len() == tokens.len() => {}
            _ => return Err(format!("special_tokens has no usable entry for {id:?}")),
        }
    }
    Ok(())
}
