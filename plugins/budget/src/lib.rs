//! A budget of tokens for a request, and tokens that it must not say. Made to be declared enforcing: when
//! it fails, so does the request, instead of going on without it.
//!
//! Arguments: `max_output`, how many tokens all branches of the request may have together, and `forbid`, a
//! list of token ids. The configuration has the same fields, and is the operator's limit: a request can ask
//! for fewer tokens and forbid more, and not the other way round. Without either nothing is limited.
//!
//! Cost: `plan` alone: forbidden tokens are one mask per request, made once and used by handle. Only a
//! branch that has used up the budget is inspected, once, to end it; its text stays.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

mod request;
#[cfg(test)]
mod tests;

use request::{Request, Rules};
use tokenmill_plugin_common::{Requests, config};
use tokenmill_policy::sample::{Choices, Knobs, Logits, Sampler, View};
use tokenmill_policy::{Error, Host};

/// See the crate's text.
#[derive(Default)]
pub struct Budget {
    rules: Rules,
    vocab: u32,
    /// Why a request is refused, if it is.
    known: Requests<Result<Request, String>>,
}

impl Sampler for Budget {
    fn configure(&mut self, text: &str, host: Host) -> Result<(), Error> {
        self.rules = config(text)?;
        self.vocab = host.vocab();
        self.rules.mask(self.vocab).map_err(Error::BadConfig)?;
        Ok(())
    }

    fn plan(&mut self, view: &dyn View, knobs: &mut Knobs) -> Result<(), Error> {
        let Self { rules, vocab, known } = self;
        for (row, (&id, &request)) in view.ids().iter().zip(view.requests()).enumerate() {
            match known.get(request, id, || Request::new(view, row, rules, *vocab)) {
                Ok(request) => {
                    if request.spend() {
                        knobs.allow.extend(request.mask().map(|mask| (row as u32, mask)));
                    } else {
                        knobs.inspect.push(row as u32);
                    }
                }
                Err(why) => knobs.refuse.push((row as u32, why.clone())),
            }
        }
        known.forget(view.finished());
        Ok(())
    }

    /// Only rows without a budget come here.
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

tokenmill_guest::export_sampler!(Budget);
