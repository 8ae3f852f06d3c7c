//! SentencePiece BPE (gemma) as the `tokenizers` crate spells it: GGUF has pieces and scores, but no merges.
use super::tokenizer::Parts;
use crate::gguf::{Gguf, Value};
use serde_json::{Value as Json, json};
use std::collections::HashMap;

/// GGUF's type of a piece that merges may make; all others are matched whole or stand for bytes.
const NORMAL: u64 = 1;

pub(super) fn parts<'a>(gguf: &Gguf<'a>, tokens: &[&'a str]) -> Result<Parts<'a>, String> {
    let flag = |name: &str| gguf.key(&format!("tokenizer.ggml.{name}")).and_then(Value::bool);
    if flag("add_space_prefix") != Some(false) || flag("add_eos_token") == Some(true) {
        return Err("tokenizer.ggml: a space or end token is to be added, which cannot be converted".into());
    }
    let id = |name: &str| gguf.need(&format!("tokenizer.ggml.{name}_token_id"), Value::u64);
    let token =
        |id: u64| tokens.get(id as usize).copied().ok_or("tokenizer.ggml: a token id is out of range");
    let types: Vec<u64> =
        gguf.need("tokenizer.ggml.token_type", Value::array)?.iter().filter_map(Value::u64).collect();
    let scores: Vec<f64> =
        gguf.need("tokenizer.ggml.scores", Value::array)?.iter().filter_map(Value::f64).collect();
    if types.len() != tokens.len() || scores.len() != tokens.len() {
        return Err("tokenizer.ggml: scores, token_type and tokens are not equally many".into());
    }
    let pieces: Vec<(&str, f64)> =
        (0..tokens.len()).filter(|&i| types[i] == NORMAL).map(|i| (tokens[i], scores[i])).collect();
    Ok(Parts {
        normalizer: json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}),
        pre_tokenizer: Json::Null,
        post_processor: match flag("add_bos_token") {
            Some(true) => begin(token(id("bos")?)?, id("bos")?),
            _ => Json::Null,
        },
        decoder: json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]}),
        unknown: Some(token(id("unknown")?)?),
        merges: merges(&pieces),
    })
}

/// Puts the start token in front.
fn begin(token: &str, id: u64) -> Json {
    let special = json!({"SpecialToken": {"id": token, "type_id": 0}});
    let text = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
    json!({"type": "TemplateProcessing", "single": [special, text("A")], "pair": [special, text("A"), special, text("B")],
           "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}}})
}

/// SentencePiece joins the two neighbours whose union has the best score, so every way to split a piece into two
/// pieces is a merge, and the best score comes first (as `generate_merges` of transformers'
/// convert_slow_tokenizer.py: then the longer left part, then the order of the vocabulary).
fn merges<'a>(pieces: &[(&'a str, f64)]) -> Vec<(&'a str, &'a str)> {
    let rank: HashMap<&str, usize> = pieces.iter().enumerate().map(|(i, (piece, _))| (*piece, i)).collect();
    let mut merges = Vec::new();
    for (piece, score) in pieces {
        let splits = piece.char_indices().skip(1).map(|(at, _)| piece.split_at(at));
        let mut here: Vec<_> = splits
            .filter_map(|(left, right)| Some(((rank.get(left)?, rank.get(right)?), left, right)))
            .collect();
        here.sort_by_key(|(ranks, ..)| *ranks);
        merges.extend(here.into_iter().map(|(_, left, right)| (*score, left.chars().count(), left, right)));
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
    merges.into_iter().map(|(_, _, left, right)| (left, right)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected: `generate_merges` of transformers 4.46.3 on the same pieces.
    #[test]
    fn merges_come_in_the_order_transformers_gives_them() {
        let pieces = ["a", "b", "ab", "ba", "aba", "▁", "▁a", "▁ab"];
        let scored: Vec<(&str, f64)> = pieces
            .iter()
            .zip([-9.0, -9.0, -0.0, -1.0, -2.0, -9.0, -3.0, -4.0])
            .map(|(p, s)| (*p, s))
            .collect();
        let expected =
            [("a", "b"), ("b", "a"), ("ab", "a"), ("a", "ba"), ("▁", "a"), ("▁a", "b"), ("▁", "ab")];
        assert_eq!(merges(&scored), expected);
    }
}
