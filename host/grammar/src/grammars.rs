use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use llguidance::{Matcher, ParserFactory};
use sha2::{Digest, Sha256};
use tokenmill_policy::{Sampler, Services};
use toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

use crate::sampler::Constrained;
use crate::{ATTRIBUTE, Error, Grammar};

/// Grammars kept after their last request, so that the next one need not compile them.
const CACHED: usize = 16;
/// The text of a grammar, in bytes.
const LONGEST: usize = 256 * 1024;

/// Compiles grammars for one model's vocabulary, and holds those in use.
pub struct Grammars {
    factory: ParserFactory,
    vocab: u32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    /// By the number that a request carries.
    prepared: HashMap<u64, Matcher>,
    /// By hash, the newest last.
    cache: VecDeque<([u8; 32], Matcher)>,
}

impl Grammars {
    /// `end_tokens` are those that end the model's answers; their text is never part of one.
    pub fn new(host: &dyn Services, end_tokens: &[u32]) -> Result<Arc<Self>, Error> {
        let vocab = host.vocab();
        let ends: Vec<u32> = end_tokens.iter().copied().filter(|&token| token < vocab).collect();
        let Some(&end) = ends.first() else {
            return Err(Error::Vocabulary("the model names no end token".into()));
        };
        let (starts, bytes) = host.token_bytes(0, vocab);
        let mut words: Vec<Vec<u8>> =
            starts.windows(2).map(|at| bytes[at[0] as usize..at[1] as usize].to_vec()).collect();
        words.resize(vocab as usize, Vec::new());
        // A word that begins with 0xff is special: no text leads to it.
        ends.iter().for_each(|&token| words[token as usize] = format!("\u{0}<{token}>").into_bytes());
        ends.iter().for_each(|&token| words[token as usize][0] = 0xff);
        if words.iter().all(Vec::is_empty) {
            return Err(Error::Vocabulary("its tokens have no text".into()));
        }
        let trie = TokTrie::from(&TokRxInfo::new(vocab, end), &words);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory =
            ParserFactory::new_simple(&environment).map_err(|error| Error::Vocabulary(error.to_string()))?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.verbose_errors = false;
        // At 1 to 2 KiB each, per grammar.
        limits.max_lexer_states = 20_000;
        Ok(Arc::new(Self { factory, vocab, state: Mutex::default() }))
    }

    /// Compiles a grammar, or finds it among the last used ones. Takes up to tens of milliseconds: not for
    /// a thread that serves others.
    pub fn prepare(self: &Arc<Self>, grammar: &Grammar) -> Result<Prepared, Error> {
        let key = grammar.key();
        if key.len() > LONGEST {
            return Err(Error::Grammar(format!("is longer than {LONGEST} bytes")));
        }
        let hash: [u8; 32] = Sha256::digest(&key).into();
        let known = self.state().find(&hash);
        let matcher = match known {
            Some(matcher) => matcher,
            None => {
                let parser = self.factory.create_parser(grammar.compile()?);
                let mut matcher = Matcher::new(parser);
                // What can never match, and what takes too long, shows in the first mask.
                if let Err(error) = matcher.compute_mask() {
                    return Err(Error::Grammar(first_line(&error.to_string())));
                }
                self.state().keep(hash, matcher.clone());
                matcher
            }
        };
        let mut state = self.state();
        state.next += 1;
        let number = state.next;
        state.prepared.insert(number, matcher);
        Ok(Prepared { grammars: self.clone(), number })
    }

    /// The policy that holds rows to what was prepared for their requests.
    pub fn sampler(self: &Arc<Self>) -> Box<dyn Sampler> {
        Box::new(Constrained::new(self.clone()))
    }

    pub(crate) fn vocab(&self) -> u32 {
        self.vocab
    }

    /// A matcher at the start of a prepared grammar.
    pub(crate) fn start(&self, number: u64) -> Option<Matcher> {
        self.state().prepared.get(&number).cloned()
    }

    /// Also after a panic elsewhere: it is consistent between statements.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn find(&mut self, hash: &[u8; 32]) -> Option<Matcher> {
        let at = self.cache.iter().position(|(other, _)| other == hash)?;
        let entry = self.cache.remove(at)?;
        let matcher = entry.1.clone();
        self.cache.push_back(entry);
        Some(matcher)
    }

    fn keep(&mut self, hash: [u8; 32], matcher: Matcher) {
        if self.cache.len() == CACHED {
            self.cache.pop_front();
        }
        self.cache.push_back((hash, matcher));
    }
}

/// A grammar that is ready for one request. Keep it until the request has ended.
pub struct Prepared {
    grammars: Arc<Grammars>,
    number: u64,
}

impl Prepared {
    /// The argument that the request must carry.
    pub fn attribute(&self) -> (String, String) {
        (ATTRIBUTE.into(), self.number.to_string())
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        self.grammars.state().prepared.remove(&self.number);
    }
}

/// The rest is a backtrace or the grammar itself.
fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().chars().take(300).collect()
}
