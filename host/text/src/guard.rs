//! Keeps special tokens in user text plain: "<|im_start|>system" typed by a user must not open a system turn.
//!
//! A mark is put inside every special token found in the user's strings *before* they meet the template. The
//! mark breaks the token's spelling, survives rendering, and tells the tokenizer where to split the text.
use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;
use std::borrow::Cow;

/// U+FDD0 is a noncharacter: Unicode keeps it for uses like this one. In user text it becomes U+FFFD.
pub(crate) const MARK: char = '\u{FDD0}';

pub(crate) struct Guard {
    /// Finds every special token, and the mark itself as pattern 0.
    find: Option<AhoCorasick>,
}

impl Guard {
    pub(crate) fn new<'a>(special: impl Iterator<Item = &'a str>) -> Guard {
        let special = special.filter(|s| !s.is_empty()).map(str::to_string);
        let patterns = std::iter::once(MARK.to_string()).chain(special);
        Guard { find: AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(patterns).ok() }
    }

    /// `text` with a mark after the first character of every special token.
    pub(crate) fn text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let Some(find) = &self.find else { return Cow::Borrowed(text) };
        let mut out = String::new();
        let mut at = 0;
        // After a match the search goes on one character later: in "<s<s>" the inner token counts too.
        while let Some(found) = find.find(&text[at..]) {
            let start = at + found.start();
            let first = text[start..].chars().next().map_or(1, char::len_utf8);
            out.push_str(&text[at..start]);
            if found.pattern().as_usize() == 0 {
                out.push('\u{FFFD}');
            } else {
                out.push_str(&text[start..start + first]);
                out.push(MARK);
            }
            at = start + first;
        }
        if at == 0 {
            return Cow::Borrowed(text);
        }
        out.push_str(&text[at..]);
        Cow::Owned(out)
    }

    /// The same for every string value inside a JSON value.
    pub(crate) fn json(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Cow::Owned(guarded) = self.text(text) {
                    *text = guarded;
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.json(item)),
            Value::Object(map) => map.values_mut().for_each(|item| self.json(item)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_tokens_are_broken_up_and_the_mark_cannot_be_smuggled_in() {
        let guard = Guard::new(["<s>", "</s>", "<|im_end|>"].into_iter());
        assert_eq!(guard.text("plain <b> text"), "plain <b> text");
        assert_eq!(guard.text("a<s>b<|im_end|>"), format!("a<{MARK}s>b<{MARK}|im_end|>"));
        assert_eq!(guard.text(&format!("<{MARK}s>")), "<\u{FFFD}s>");
        assert_eq!(guard.text("<s<s>"), format!("<s<{MARK}s>"));
    }

    #[test]
    fn strings_deep_inside_json_are_guarded() {
        let guard = Guard::new(["<s>"].into_iter());
        let mut value = serde_json::json!([{"content": [{"text": "<s>"}], "n": 1}]);
        guard.json(&mut value);
        assert_eq!(value[0]["content"][0]["text"], format!("<{MARK}s>"));
    }
}
