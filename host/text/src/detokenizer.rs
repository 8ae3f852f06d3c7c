//! Tokens to text, one token at a time: what was let out is always a prefix of the whole text.
use crate::{
    Tokenizer,
    table::{ByteTable, Piece},
};
use std::sync::Arc;

/// Turns the tokens of one sequence into text as they come. The pieces, and the rest from `flush`, add up to
/// [`Tokenizer::decode`] of all tokens. U+FFFD stands only for bytes that are no UTF-8.
#[derive(Clone)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    skip_special: bool,
    joiner: Joiner,
    rejoin: Rejoin,
}

impl Detokenizer {
    /// For a sequence whose text begins with its first token.
    pub fn new(tokenizer: Arc<Tokenizer>, skip_special: bool) -> Self {
        let at_start = tokenizer.table().is_some_and(|t| t.strip_first_space);
        Detokenizer { tokenizer, skip_special, joiner: Joiner::new(at_start), rejoin: Rejoin::default() }
    }

    /// For a sequence that goes on after `prompt`: the first new word keeps its leading space.
    pub fn continuing(tokenizer: Arc<Tokenizer>, prompt: &[u32], skip_special: bool) -> Self {
        let mut new = Self::new(tokenizer, skip_special);
        let has_text = prompt.iter().any(|&id| !(skip_special && new.tokenizer.is_special(id)));
        if has_text {
            new.joiner.at_start = false;
            new.rejoin = Rejoin::after(prompt);
        }
        new
    }

    /// The text that this token completes; often a word, "" while a character is unfinished.
    pub fn push(&mut self, id: u32) -> &str {
        match self.tokenizer.table() {
            Some(table) => self.joiner.push(table, id, self.skip_special),
            None => self.rejoin.push(&self.tokenizer, id, self.skip_special),
        }
    }

    /// The rest at the end of the sequence; an unfinished character becomes one U+FFFD.
    pub fn flush(&mut self) -> &str {
        match self.tokenizer.table() {
            Some(_) => self.joiner.flush(),
            None => self.rejoin.flush(&self.tokenizer, self.skip_special),
        }
    }
}

/// Joins the bytes of tokens and lets out whole characters.
#[derive(Clone)]
pub(crate) struct Joiner {
    /// Bytes of an unfinished character.
    pending: Vec<u8>,
    out: String,
    /// The first text still has a leading space to lose.
    at_start: bool,
}

impl Joiner {
    pub(crate) fn new(at_start: bool) -> Self {
        Joiner { pending: Vec::new(), out: String::new(), at_start }
    }

    pub(crate) fn push<'a>(&'a mut self, table: &'a ByteTable, id: u32, skip_special: bool) -> &'a str {
        if skip_special && table.is_special(id) {
            return "";
        }
        let bytes = match table.get(id) {
            None => return "",
            Some(Piece::Text(text)) if self.pending.is_empty() && !self.at_start => return text,
            Some(piece) => piece.as_bytes(),
        };
        self.pending.extend_from_slice(bytes);
        self.let_out(false)
    }

    pub(crate) fn flush(&mut self) -> &str {
        self.let_out(true)
    }

    /// Moves whole characters from `pending` to `out`, with U+FFFD for what can never become one
    /// (as `String::from_utf8_lossy`: one per maximal broken part).
    fn let_out(&mut self, end: bool) -> &str {
        self.out.clear();
        let mut rest = 0;
        let mut chunks = self.pending.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.out.push_str(chunk.valid());
            let broken = chunk.invalid();
            let unfinished = std::str::from_utf8(broken).is_err_and(|e| e.error_len().is_none());
            if unfinished && chunks.peek().is_none() && !end {
                rest = broken.len();
            } else if !broken.is_empty() {
                self.out.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.pending.drain(..self.pending.len() - rest);
        if self.at_start && !self.out.is_empty() {
            self.at_start = false;
            if self.out.starts_with(' ') {
                return &self.out[1..];
            }
        }
        &self.out
    }
}

/// For decoders that look at neighbours (WordPiece, Metaspace): decodes a short window of tokens with and without
/// the newest and lets out the difference, as TGI and vLLM do. Costs a few microseconds a token.
#[derive(Clone, Default)]
struct Rejoin {
    ids: Vec<u32>,
    /// `ids[..read]` were let out; their text begins what is decoded again.
    read: usize,
    out: String,
}

impl Rejoin {
    /// Tokens of context kept from the prompt.
    const CONTEXT: usize = 6;

    fn after(prompt: &[u32]) -> Self {
        let ids = prompt[prompt.len().saturating_sub(Self::CONTEXT)..].to_vec();
        Rejoin { read: ids.len(), ids, out: String::new() }
    }

    fn push(&mut self, tokenizer: &Tokenizer, id: u32, skip_special: bool) -> &str {
        self.ids.push(id);
        self.difference(tokenizer, skip_special);
        if self.out.is_empty() || self.out.ends_with(char::REPLACEMENT_CHARACTER) {
            return "";
        }
        self.ids.drain(..self.read);
        self.read = self.ids.len();
        &self.out
    }

    fn flush(&mut self, tokenizer: &Tokenizer, skip_special: bool) -> &str {
        self.difference(tokenizer, skip_special);
        self.read = self.ids.len();
        &self.out
    }

    fn difference(&mut self, tokenizer: &Tokenizer, skip_special: bool) {
        let text = |ids| tokenizer.decode(ids, skip_special).unwrap_or_default();
        let (known, all) = (text(&self.ids[..self.read]), text(&self.ids));
        self.out.clear();
        self.out.push_str(all.get(known.len()..).unwrap_or_default());
    }
}
