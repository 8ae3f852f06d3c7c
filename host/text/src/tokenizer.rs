//! Text to token ids and back, for one model.
use crate::{
    Chat, ChatTemplate, TextError,
    detokenizer::Joiner,
    file,
    guard::{Guard, MARK},
    settings,
    table::{ByteTable, Spelling},
    vet::{self, Parts},
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};
use tokenizers::{Encoding, Tokenizer as Inner};

/// The most ids a tokenizer may span.
const MAX_IDS: usize = 1 << 22;

/// Encoded once at load, so that a tokenizer that panics does so before the server says it is ready.
const PROBE: &str =
    "The 2 quick <b>foxes</b>\n\tjumped… über 日本語 👍🏽 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!";

/// How long the runs are that a tokenizer must stand before it is used.
const RUN_BYTES: usize = 8 << 10;

/// The tokenizer of one model. Cheap to share (`Arc`); every method may be called from many threads.
pub struct Tokenizer {
    inner: Inner,
    table: Option<ByteTable>,
    guard: Guard,
    ids: usize,
    eos: Vec<u32>,
    bos: Option<u32>,
}

impl Tokenizer {
    /// Reads tokenizer.json, and tokenizer_config.json, generation_config.json and config.json where they exist.
    pub fn from_dir(dir: &Path) -> Result<Self, TextError> {
        let path = dir.join("tokenizer.json");
        let bytes = file::read(&path)?.ok_or_else(|| TextError::file(&path, "does not exist"))?;
        let parts: Parts = serde_json::from_slice(&bytes).map_err(|e| TextError::file(&path, e))?;
        vet::vet(&parts).map_err(|e| TextError::file(&path, e))?;
        let (inner, ids) = build(&bytes, &parts).map_err(|e| TextError::file(&path, e))?;

        let named = settings::special_tokens(dir)?;
        let id = |name| named.get(name).and_then(|token| inner.token_to_id(token.as_str()?));
        let mut eos = settings::end_ids(dir)?;
        eos.extend(id("eos_token").filter(|id| !eos.contains(id)).as_slice());
        let bos = id("bos_token");

        let added = inner.get_added_vocabulary();
        let special = added.get_added_tokens_decoder().values().filter(|t| t.special);
        let guard = Guard::new(special.map(|t| t.content.as_str()));
        let table = Spelling::of(&parts.decoder).map(|spelling| ByteTable::new(&inner, &spelling, ids));
        let tokenizer = Tokenizer { inner, table, guard, ids, eos, bos };
        let probe = tokenizer.encode(PROBE, true).and_then(|ids| tokenizer.decode(&ids, false));
        probe.map(|_| tokenizer).map_err(|e| TextError::file(&path, e))
    }

    /// The ids of a text in which special tokens count as such; `add_special_tokens` adds the start token (and
    /// whatever else the tokenizer's post-processor adds). CPU-bound, about linear in the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        Ok(self.encoding(text, add_special_tokens)?.get_ids().to_vec())
    }

    /// The ids of a text in which nothing is a special token.
    pub fn encode_plain(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        self.encode_guarded(&self.guard.text(text), add_special_tokens)
    }

    /// The prompt of a conversation. Special tokens come from the template alone: those written in messages or
    /// tools stay plain text, so no user can forge a role.
    pub fn encode_chat(&self, template: &ChatTemplate, chat: &Chat<'_>) -> Result<Vec<u32>, TextError> {
        let guarded = |values: &[serde_json::Value]| {
            let mut values = values.to_vec();
            values.iter_mut().for_each(|value| self.guard.json(value));
            values
        };
        let (messages, tools) = (guarded(chat.messages), chat.tools.map(guarded));
        let text = template.render(&Chat { messages: &messages, tools: tools.as_deref(), ..*chat })?;
        self.encode_guarded(&text, false)
    }

    /// The text of `ids`; ids without a token add nothing. `skip_special` leaves special tokens out.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TextError> {
        let Some(table) = &self.table else {
            let decoded = catch_unwind(AssertUnwindSafe(|| self.inner.decode(ids, skip_special)));
            return flatten(decoded).map_err(TextError::Decode);
        };
        let mut joiner = Joiner::new(table.strip_first_space);
        let mut text = String::new();
        for &id in ids {
            text.push_str(joiner.push(table, id, skip_special));
        }
        text.push_str(joiner.flush());
        Ok(text)
    }

    /// The bytes a token stands for; a token may end inside a character. `None`: no such token.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        match &self.table {
            Some(table) => table.get(id).map(|piece| piece.as_bytes().to_vec()),
            None => self.token_text(id).and_then(|_| self.decode(&[id], false).ok()).map(String::into_bytes),
        }
    }

    /// The token as the vocabulary spells it ("Ġhello").
    pub fn token_text(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// True for tokens such as `<|im_end|>`, which are no text.
    pub fn is_special(&self, id: u32) -> bool {
        match &self.table {
            Some(table) => table.is_special(id),
            None => self
                .inner
                .get_added_vocabulary()
                .get_added_tokens_decoder()
                .get(&id)
                .is_some_and(|t| t.special),
        }
    }

    /// One more than the highest id. The model may have more rows than that.
    pub fn vocab_size(&self) -> usize {
        self.ids
    }

    /// Tokens that end a sequence: generation_config.json's (else config.json's) and the tokenizer's own.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos
    }

    pub fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    /// Encodes long runs and decodes every id, so that a tokenizer that fails on them does so in a process apart.
    pub(crate) fn exercise(&self) -> Result<(), TextError> {
        for unit in ["a", " ", "1", "^", "\n", "\u{200d}", "👍", "語", "a ", "<"] {
            let ids = self.encode(&unit.repeat(RUN_BYTES / unit.len()), true)?;
            self.decode(&ids, true)?;
        }
        (0..self.ids as u32).try_for_each(|id| self.decode(&[id], false).map(drop))
    }

    pub(crate) fn table(&self) -> Option<&ByteTable> {
        self.table.as_ref()
    }

    fn encoding(&self, text: &str, add_special_tokens: bool) -> Result<Encoding, TextError> {
        let encoded = catch_unwind(AssertUnwindSafe(|| self.inner.encode_fast(text, add_special_tokens)));
        flatten(encoded).map_err(TextError::Encode)
    }

    /// Encodes the stretches between guard marks on their own, which is what keeps a marked token from matching.
    fn encode_guarded(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        if !text.contains(MARK) {
            return self.encode(text, add_special_tokens);
        }
        let pieces: Result<Vec<Encoding>, _> =
            text.split(MARK).map(|piece| self.encoding(piece, false)).collect();
        let whole = Encoding::merge(pieces?, false);
        let finished =
            catch_unwind(AssertUnwindSafe(|| self.inner.post_process(whole, None, add_special_tokens)));
        Ok(flatten(finished).map_err(TextError::Encode)?.get_ids().to_vec())
    }
}

/// Builds the inner tokenizer; also returns one more than its highest id.
fn build(bytes: &[u8], parts: &Parts) -> Result<(Inner, usize), String> {
    let mut inner = flatten(catch_unwind(|| Inner::from_bytes(bytes)))?;
    // A server never cuts or pads a prompt unasked.
    inner.with_padding(None).with_truncation(None).map_err(|e| e.to_string())?;
    for token in &parts.added_tokens {
        if !token.content.is_empty() && inner.token_to_id(&token.content) != Some(token.id) {
            return Err(format!(
                "added_tokens: {:?} is not id {} in the vocabulary",
                token.content, token.id
            ));
        }
    }
    let vocab = inner.get_vocab(true);
    let ids = vocab.values().max().map_or(0, |&id| id as usize + 1);
    // Some published vocabularies have holes, none is mostly holes; tables are as long as the highest id.
    if ids == 0 || ids > MAX_IDS || ids > vocab.len() * 2 + 1024 {
        return Err(format!(
            "{} tokens with ids up to {}: not a usable vocabulary",
            vocab.len(),
            ids.saturating_sub(1)
        ));
    }
    let mut owner = vec![false; ids];
    for (token, &id) in &vocab {
        if std::mem::replace(&mut owner[id as usize], true) {
            return Err(format!("id {id} of {token:?} belongs to two tokens"));
        }
    }
    Ok((inner, ids))
}

/// A result of the tokenizers crate, or the panic it ended in.
fn flatten<T>(result: std::thread::Result<tokenizers::Result<T>>) -> Result<T, String> {
    match result {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("the tokenizer panicked".into()),
    }
}
