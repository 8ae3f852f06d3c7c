//! The few pieces of JSON that are written by hand, because one frame is written per token.

use std::io::Write as _;

/// `text` as a JSON string, quotes included (RFC 8259 section 7).
pub(crate) fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    escaped(out, text);
    out.push(b'"');
}

pub(crate) fn optional_string(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => string(out, text),
        None => out.extend_from_slice(b"null"),
    }
}

fn escaped(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut from = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[from..at]);
        from = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
        }
    }
    out.extend_from_slice(&bytes[from..]);
}

pub(crate) fn unsigned(out: &mut Vec<u8>, value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = value;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// A log-probability. JSON has no infinity: what is below -9999 is written as -9999, as vLLM does.
pub(crate) fn logprob(out: &mut Vec<u8>, value: f32) {
    let value = if value.is_nan() { -9999.0 } else { value.clamp(-9999.0, 0.0) };
    // Shortest text that reads back as the same f32; "-0" would be legal, but surprises readers.
    let value = if value == 0.0 { 0.0 } else { value };
    // Writing into a Vec cannot fail.
    let _ = write!(out, "{value:?}");
}

/// `items` with commas between them.
pub(crate) fn list<T>(
    out: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    mut one: impl FnMut(&mut Vec<u8>, T),
) {
    out.push(b'[');
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        one(out, item);
    }
    out.push(b']');
}

/// How deep `text` nests, and how many values it holds at most. Counts brackets outside strings; whether
/// it is JSON at all is for the parser to say. Stops early beyond `max_depth`.
pub(crate) fn measure(text: &[u8], max_depth: usize) -> Measure {
    let (mut depth, mut deepest, mut values) = (0usize, 0usize, 1usize);
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => skip_string(&mut bytes),
            b'[' | b'{' => {
                depth += 1;
                values += 1;
                deepest = deepest.max(depth);
                if deepest > max_depth {
                    break;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' => values += 1,
            _ => {}
        }
    }
    Measure { depth: deepest, values }
}

fn skip_string(bytes: &mut std::slice::Iter<'_, u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => _ = bytes.next(),
            b'"' => return,
            _ => {}
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Measure {
    pub(crate) depth: usize,
    pub(crate) values: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_read_back_equal() {
        for text in ["", "plain", "\"\\\n\r\t\u{1}\u{1f}\u{7f}", "é 漢 😀 \u{2028}", "</script>"] {
            let mut out = Vec::new();
            string(&mut out, text);
            assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }

    #[test]
    fn numbers_read_back_equal() {
        for value in [0, 1, 9, 10, 12_345, u64::MAX] {
            let mut out = Vec::new();
            unsigned(&mut out, value);
            assert_eq!(serde_json::from_slice::<u64>(&out).unwrap(), value);
        }
        for (value, expected) in [(-0.0, 0.0), (-1e-9, -1e-9), (f32::NEG_INFINITY, -9999.0), (-1.5, -1.5)] {
            let mut out = Vec::new();
            logprob(&mut out, value);
            assert_eq!(serde_json::from_slice::<f32>(&out).unwrap(), expected);
        }
    }

    #[test]
    fn depth_ignores_brackets_in_strings() {
        assert_eq!(measure(br#"{"a": "[[[[\"[[", "b": [1, [2]]}"#, 64), Measure { depth: 3, values: 6 });
        assert_eq!(measure(&[b'['; 100_000], 64).depth, 65);
    }
}
