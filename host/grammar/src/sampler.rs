//! The policy: a mask per row, from the state of its sequence in its grammar.

use std::collections::HashMap;
use std::sync::Arc;

use llguidance::Matcher;
use tokenmill_policy::sample::{Choices, Knobs, Logits, Sampler, View};
use tokenmill_policy::{Error, sample::Mask};

use crate::{ATTRIBUTE, Grammars};

pub(crate) struct Constrained {
    grammars: Arc<Grammars>,
    sequences: HashMap<u64, Matcher>,
}

impl Constrained {
    pub(crate) fn new(grammars: Arc<Grammars>) -> Self {
        Self { grammars, sequences: HashMap::new() }
    }

    /// Brings a row's matcher up to its sequence's last token.
    fn follow(&mut self, view: &dyn View, row: usize) -> Result<&mut Matcher, Error> {
        let accepted = view.accepted().get(row);
        let output = view.generated()[row] as usize;
        let id = view.ids()[row];
        // All of its tokens are shown when the sequence is new, a fork included.
        let whole = accepted.len() >= view.positions()[row] as usize;
        if whole || !self.sequences.contains_key(&id) {
            let number = view.attribute(row, ATTRIBUTE).and_then(|number| number.parse().ok());
            let started = number.and_then(|number| self.grammars.start(number));
            let fresh = started.ok_or_else(|| undecided("no grammar was prepared for the request"))?;
            self.sequences.insert(id, fresh);
        }
        let new = if whole { &accepted[accepted.len() - output..] } else { accepted };
        let matcher = self.sequences.get_mut(&id).ok_or_else(|| undecided("unknown sequence"))?;
        matcher.consume_tokens(new).map_err(|error| undecided(&error.to_string()))?;
        Ok(matcher)
    }
}

impl Sampler for Constrained {
    fn plan(&mut self, view: &dyn View, knobs: &mut Knobs) -> Result<(), Error> {
        view.finished().iter().for_each(|id| {
            self.sequences.remove(id);
        });
        for row in 0..view.ids().len() {
            let vocab = self.grammars.vocab();
            let matcher = self.follow(view, row)?;
            match mask(matcher, &view.stop_tokens(row), vocab)? {
                Some(mask) => knobs.allow.push((row as u32, mask)),
                // Complete, and the request has no token to say so with.
                None => knobs.inspect.push(row as u32),
            }
        }
        Ok(())
    }

    fn pick(
        &mut self,
        _: &dyn View,
        _: &mut dyn Logits,
        rows: &[u32],
        choices: &mut Choices,
    ) -> Result<(), Error> {
        choices.finish.extend_from_slice(rows);
        Ok(())
    }
}

/// The tokens that may follow: text of the grammar, and where it may end, the tokens that end it.
fn mask(matcher: &mut Matcher, ends: &[u32], vocab: u32) -> Result<Option<Mask>, Error> {
    let whole = matcher.compute_mask_or_eos().map_err(|error| undecided(&error.to_string()))?;
    let complete = matcher.is_stopped() || matcher.is_accepting().unwrap_or(false);
    let mut words = vec![0; vocab.div_ceil(32) as usize];
    let given = whole.as_slice();
    let shared = words.len().min(given.len());
    words[..shared].copy_from_slice(&given[..shared]);
    for &end in matcher_ends(matcher)?.iter().filter(|&&end| end < vocab) {
        words[end as usize / 32] &= !(1 << (end % 32));
    }
    if complete {
        ends.iter().for_each(|&end| words[end as usize / 32] |= 1 << (end % 32));
    }
    Ok(words.iter().any(|&word| word != 0).then(|| words.into()))
}

/// What llguidance takes for the end of a text.
fn matcher_ends(matcher: &Matcher) -> Result<Vec<u32>, Error> {
    let environment = matcher.tok_env().map_err(|error| undecided(&error.to_string()))?;
    Ok(environment.tok_trie().eos_tokens().to_vec())
}

fn undecided(why: &str) -> Error {
    Error::Undecided(why.to_owned())
}
