//! DRY, don't repeat yourself: a token that would continue a repetition is made less likely, the more the
//! longer the repetition is.
//!
//! Source: P. E. Weidmann 2024 (text-generation-webui pull request 5677, `DRYLogitsProcessor`): when the last
//! `n` tokens occurred before, the logit of the token that followed there falls by
//! `multiplier * base^(n - allowed_length)`. A match does not reach over a sequence breaker. Of the
//! configuration's breakers that is, as in llama.cpp, each token whose text contains one; of a request's own,
//! as in text-generation-webui, the last token of each, so that it costs the same in any vocabulary.
//!
//! Arguments: `multiplier` (0.8; 0 is off), `base` (1.75), `allowed_length` (2), `penalty_last_n`, how many
//! tokens are looked at (-1 and 0: all, the prompt included), and `sequence_breakers`, a list of strings
//! (`["\n", ":", "\"", "*"]`); the configuration has the same fields.
//!
//! Cost: `plan` alone, as biases that the device adds to the request's own; no row is inspected. A step looks at the
//! places where the last token was before, wherever they are, and keeps 9 bytes for each token of a sequence.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

use std::sync::Arc;

mod history;
mod settings;
#[cfg(test)]
mod tests;

use history::History;
use settings::{Breakers, Settings, containing, ending};
use tokenmill_plugin_common::{Args, Sequences, config};
use tokenmill_policy::sample::{Knobs, Sampler, View};
use tokenmill_policy::{Error, Host};

/// See the crate's text.
#[derive(Default)]
pub struct Dry {
    defaults: Settings,
    /// Of `defaults`.
    breakers: Breakers,
    host: Option<Host>,
    /// Why a request is refused, if it is.
    known: Sequences<Result<History, String>>,
}

impl Dry {
    /// What the request of a row asks for. Most ask for no breakers of their own.
    fn history(&self, view: &dyn View, row: usize) -> Result<History, String> {
        let asked = self.defaults.of(Args::new(view, row), view, row)?;
        let breakers = match &self.host {
            Some(host) if asked.sequence_breakers != self.defaults.sequence_breakers => {
                ending(&asked.sequence_breakers, host)
            }
            _ => Arc::clone(&self.breakers),
        };
        Ok(History::new(asked, breakers))
    }
}

impl Sampler for Dry {
    fn configure(&mut self, text: &str, host: Host) -> Result<(), Error> {
        let defaults: Settings = config(text)?;
        self.defaults = defaults.check().map_err(Error::BadConfig)?;
        self.breakers = containing(&self.defaults.sequence_breakers, &host);
        self.host = Some(host);
        Ok(())
    }

    fn plan(&mut self, view: &dyn View, knobs: &mut Knobs) -> Result<(), Error> {
        self.known.forget(view.finished());
        for (row, &id) in view.ids().iter().enumerate() {
            if self.known.find(id).is_none() {
                let history = self.history(view, row);
                self.known.get(id, || history);
            }
            let accepted = view.accepted().get(row);
            match self.known.find(id) {
                Some(Ok(history)) => {
                    if accepted.len() == view.positions()[row] as usize {
                        history.clear(); // All of it is told again.
                    }
                    history.extend(accepted);
                    let bias = history.penalties().into_iter();
                    knobs.bias.extend(bias.map(|(token, penalty)| (row as u32, token, -penalty)));
                }
                Some(Err(why)) => knobs.refuse.push((row as u32, why.clone())),
                None => {}
            }
        }
        Ok(())
    }
}

tokenmill_guest::export_sampler!(Dry);
