//! The exact bytes of every token, for tokenizers whose decoder is a plain concatenation of bytes.
//!
//! That holds for byte-level BPE (GPT-2's map of bytes to printable characters, also llama 3, qwen, SmolLM) and
//! for SentencePiece with byte fallback (llama 2, mistral, gemma). One look-up then replaces the whole decoder.
use serde_json::Value;
use tokenizers::{Model, Tokenizer};

/// How token strings turn into bytes, read from the `decoder` of tokenizer.json.
pub(crate) enum Spelling {
    ByteLevel,
    /// `▁` and the like are replaced; `<0x41>` is a byte where `byte_fallback` is set.
    SentencePiece {
        replace: Vec<(String, String)>,
        byte_fallback: bool,
        strip_first_space: bool,
    },
}

impl Spelling {
    /// `None` where the decoder is more than a concatenation.
    pub(crate) fn of(decoder: &Value) -> Option<Spelling> {
        let one = std::slice::from_ref(decoder);
        let steps = match decoder["type"].as_str()? {
            "Sequence" => decoder["decoders"].as_array()?.as_slice(),
            _ => one,
        };
        if let [step] = steps
            && step["type"] == "ByteLevel"
        {
            return Some(Spelling::ByteLevel);
        }
        let (mut replace, mut byte_fallback, mut fused, mut strip_first_space) =
            (Vec::new(), false, false, false);
        for step in steps {
            match step["type"].as_str()? {
                "Replace" if !byte_fallback && !fused => {
                    replace
                        .push((step["pattern"]["String"].as_str()?.into(), step["content"].as_str()?.into()));
                }
                "ByteFallback" if !fused => byte_fallback = true,
                "Fuse" => fused = true,
                "Strip" if fused && step["content"] == " " && step["start"] == 1 && step["stop"] == 0 => {
                    strip_first_space = true;
                }
                _ => return None,
            }
        }
        (fused && !replace.is_empty()).then_some(Spelling::SentencePiece {
            replace,
            byte_fallback,
            strip_first_space,
        })
    }

    fn bytes(&self, token: String, byte_of: &ByteOf) -> Vec<u8> {
        match self {
            Spelling::ByteLevel => byte_of.decode(&token).unwrap_or_else(|| token.into_bytes()),
            Spelling::SentencePiece { replace, byte_fallback, .. } => {
                let token = replace.iter().fold(token, |t, (from, to)| t.replace(from, to));
                match token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>')) {
                    Some(hex) if *byte_fallback && hex.len() == 2 => match u8::from_str_radix(hex, 16) {
                        Ok(byte) => vec![byte],
                        Err(_) => token.into_bytes(),
                    },
                    _ => token.into_bytes(),
                }
            }
        }
    }
}

/// GPT-2's table of printable characters that stand for bytes, backwards.
struct ByteOf([Option<u8>; 324]);

impl ByteOf {
    fn new() -> Self {
        let mut table = [None; 324];
        let mut next = 256;
        for byte in 0..=255u8 {
            let printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
            let code = if printable { usize::from(byte) } else { next };
            next += usize::from(!printable);
            table[code] = Some(byte);
        }
        ByteOf(table)
    }

    fn decode(&self, token: &str) -> Option<Vec<u8>> {
        token.chars().map(|c| self.0.get(c as usize).copied().flatten()).collect()
    }
}

#[derive(Clone, Copy, Default)]
struct Entry {
    start: u32,
    len: u32,
    known: bool,
    special: bool,
    /// In `text` rather than `bytes`: whole characters only.
    whole: bool,
}

/// Bytes of every token id.
pub(crate) struct ByteTable {
    entries: Vec<Entry>,
    text: String,
    bytes: Vec<u8>,
    pub(crate) strip_first_space: bool,
}

impl ByteTable {
    /// `ids`: one more than the highest id.
    pub(crate) fn new(tokenizer: &Tokenizer, spelling: &Spelling, ids: usize) -> ByteTable {
        let byte_of = ByteOf::new();
        let strip_first_space = matches!(spelling, Spelling::SentencePiece { strip_first_space: true, .. });
        let mut table = ByteTable {
            entries: Vec::with_capacity(ids),
            text: String::new(),
            bytes: Vec::new(),
            strip_first_space,
        };
        let added = tokenizer.get_added_vocabulary();
        for id in 0..ids as u32 {
            let token = added.simple_id_to_token(id).or_else(|| tokenizer.get_model().id_to_token(id));
            let Some(token) = token else {
                table.entries.push(Entry::default());
                continue;
            };
            let special = added.is_special_token(&token);
            let bytes = spelling.bytes(token, &byte_of);
            let len = bytes.len() as u32;
            let (start, whole) = match std::str::from_utf8(&bytes) {
                Ok(text) => {
                    table.text.push_str(text);
                    (table.text.len() - bytes.len(), true)
                }
                Err(_) => {
                    table.bytes.extend_from_slice(&bytes);
                    (table.bytes.len() - bytes.len(), false)
                }
            };
            table.entries.push(Entry { start: start as u32, len, known: true, special, whole });
        }
        table
    }

    /// The bytes of a token: as text where they are whole characters. `None`: no such token.
    pub(crate) fn get(&self, id: u32) -> Option<Piece<'_>> {
        let entry = self.entries.get(id as usize).filter(|e| e.known)?;
        let range = entry.start as usize..(entry.start + entry.len) as usize;
        Some(if entry.whole { Piece::Text(&self.text[range]) } else { Piece::Bytes(&self.bytes[range]) })
    }

    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.entries.get(id as usize).is_some_and(|e| e.special)
    }
}

/// What one token adds to the output.
#[derive(Clone, Copy)]
pub(crate) enum Piece<'a> {
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl<'a> Piece<'a> {
    pub(crate) fn as_bytes(self) -> &'a [u8] {
        match self {
            Piece::Text(text) => text.as_bytes(),
            Piece::Bytes(bytes) => bytes,
        }
    }
}
