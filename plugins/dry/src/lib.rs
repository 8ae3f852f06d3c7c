//! DRY, don't repeat yourself: a token that would continue a repetition is made less likely, the more the
//! longer the repetition is.
//!
//! Source: P. E. Weidmann 2024 (text-generation-webui pull request 5677, `DRYLogitsProcessor`): when the
//! last `n` tokens occurred before, the logit of the token that followed there falls by `multiplier *
//! base^(n - allowed_length)`. A match does not reach over a sequence breaker, which is, as in llama.cpp, a
//! token whose text contains one, or the last token of a breaker that takes several.
//!
//! Arguments: `multiplier` (0.8; 0 is off), `base` (1.75), `allowed_length` (2), `penalty_last_n`, how many
//! tokens are looked at (-1 and 0: all, the prompt included), and `sequence_breakers`, a list of strings
//! (`["\n", ":", "\"", "*"]`); the configuration has the same fields.
//!
//! Cost: `plan` alone, as biases that the device adds to the request's own; no row is inspected. Looks once
//! at each token of a sequence a step, about 1 µs for 2,000 tokens. Keeps the vocabulary's bytes (0.5 MB
//! for 49,152 tokens).
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

mod history;
mod settings;
#[cfg(test)]
mod tests;

use history::History;
use settings::{Settings, Vocabulary};
use tokenmill_plugin_common::{Args, Sequences, config};
use tokenmill_policy::sample::{Knobs, Sampler, View};
use tokenmill_policy::{Error, Host};

/// See the crate's text.
#[derive(Default)]
pub struct Dry {
    defaults: Settings,
    vocabulary: Vocabulary,
    /// Why a request is refused, if it is.
    known: Sequences<Result<History, String>>,
}

impl Sampler for Dry {
    fn configure(&mut self, text: &str, host: Host) -> Result<(), Error> {
        let defaults: Settings = config(text)?;
        self.defaults = defaults.check().map_err(Error::BadConfig)?;
        self.vocabulary = Vocabulary::new(host);
        Ok(())
    }

    fn plan(&mut self, view: &dyn View, knobs: &mut Knobs) -> Result<(), Error> {
        self.known.forget(view.finished());
        let Self { defaults, vocabulary, known } = self;
        for (row, &id) in view.ids().iter().enumerate() {
            let first =
                || defaults.of(Args::new(view, row), view, row).map(|asked| History::new(asked, vocabulary));
            let accepted = view.accepted().get(row);
            match known.get(id, first) {
                Ok(history) => {
                    if accepted.len() == view.positions()[row] as usize {
                        history.clear(); // All of it is told again.
                    }
                    history.extend(accepted, vocabulary);
                    let bias = history.penalties().into_iter();
                    knobs.bias.extend(bias.map(|(token, penalty)| (row as u32, token, -penalty)));
                }
                Err(why) => knobs.refuse.push((row as u32, why.clone())),
            }
        }
        Ok(())
    }
}

tokenmill_guest::export_sampler!(Dry);
