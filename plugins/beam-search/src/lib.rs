//! Beam search: keeps the `width` most likely texts so far, and extends all of them.
//!
//! Source: `generate(num_beams=…, do_sample=False)` of transformers 5, and equal to it: a text's score is
//! the sum of its log-probabilities, and that of a finished text is divided by its length (the end token
//! counts) to the power of `length_penalty`. When the search ends is said in [`Stopping`].
//!
//! Arguments: `width` (4), `length_penalty` (1), and `early_stopping`, true, false or "never" (false); the
//! configuration has the same fields. A request must be allowed `width` branches (`policy.branches`). Its
//! answer is the `width` best of the branches that were not pruned, by the score above: one that finished
//! early may be beaten later.
//!
//! Cost: every row is inspected, for one top-k of `width` times one more than there are stop tokens. Beams
//! are compared among the rows of one step: while some of a request's are missing, because memory is short
//! or a scheduler wants it so, those that are there keep to their number, and the result may differ from
//! transformers'. The request's penalties and biases do not apply. Running beams are known from the view
//! alone; the scores of finished ones are lost when the policy is restarted.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

mod search;
mod settings;
#[cfg(test)]
mod tests;

use search::{Beam, Search};
use settings::Settings;
pub use settings::Stopping;
use tokenmill_plugin_common::{Args, Requests, config};
use tokenmill_policy::sample::{Choices, Knobs, Logits, Sampler, View};
use tokenmill_policy::{Error, Host};

/// See the crate's text.
#[derive(Default)]
pub struct BeamSearch {
    defaults: Settings,
    /// Why a request is refused, if it is.
    known: Requests<Result<Search, String>>,
}

impl Sampler for BeamSearch {
    fn configure(&mut self, text: &str, _: Host) -> Result<(), Error> {
        let defaults: Settings = config(text)?;
        self.defaults = defaults.check().map_err(Error::BadConfig)?;
        Ok(())
    }

    fn plan(&mut self, view: &dyn View, knobs: &mut Knobs) -> Result<(), Error> {
        let defaults = self.defaults;
        for (row, (&id, &request)) in view.ids().iter().zip(view.requests()).enumerate() {
            match self.known.get(request, id, || defaults.of(Args::new(view, row)).map(Search::new)) {
                Ok(_) => knobs.inspect.push(row as u32),
                Err(why) => knobs.refuse.push((row as u32, why.clone())),
            }
        }
        self.known.forget(view.finished());
        Ok(())
    }

    fn pick(
        &mut self,
        view: &dyn View,
        logits: &mut dyn Logits,
        rows: &[u32],
        choices: &mut Choices,
    ) -> Result<(), Error> {
        let group = |row: u32| (view.requests()[row as usize], view.generated()[row as usize]);
        let mut rows = rows.to_vec();
        rows.sort_by_key(|&row| group(row)); // Stable: the rows of a request keep their order.
        for rows in rows.chunk_by(|&a, &b| group(a) == group(b)) {
            let at = rows[0] as usize;
            let Some(Ok(search)) = self.known.find(view.requests()[at]) else { continue };
            // Branches that a request begins with are all the same; one of them is enough.
            let rows = if view.generated()[at] == 0 { &rows[..1] } else { rows };
            let stops = view.stop_tokens(at);
            let mut beams = Vec::new();
            for &row in rows {
                let most = search.candidates(stops.len()).min(logits.vocab());
                let (tokens, logprobs) = logits.top_k(row, most)?;
                let score = view.scores()[row as usize];
                let beam = |(token, logprob)| Beam { row, token, score: score + logprob };
                beams.extend(tokens.into_iter().zip(logprobs).map(beam));
            }
            let length = view.generated()[at] + 1;
            let longest = length - 1 + view.remaining()[at];
            let accepted = search.step(beams, rows.len(), length, longest, &stops);
            choices.accept.extend(accepted.iter().map(|beam| (beam.row, beam.token)));
        }
        Ok(())
    }
}

tokenmill_guest::export_sampler!(BeamSearch);
