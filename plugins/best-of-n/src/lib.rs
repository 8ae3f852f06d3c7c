//! Best of n while it runs: begins `best_of` texts, and gives up the worst of them again and again, so that
//! most of the work goes into the best.
//!
//! Source: speculative rejection, Sun et al. 2024 (arXiv 2410.20290): a text that scores badly half way
//! rarely wins. Theirs is a reward model; here a text's score is its mean log-probability, as in OpenAI's
//! `best_of`.
//!
//! Arguments: `best_of`, texts to begin (4); `keep`, texts that are never given up (1); `every`, after how
//! many tokens for the first time, then after twice as many, and so on (16); `reject`, the part that goes
//! each time (0.5); the configuration has the same fields. A request must be allowed `best_of` branches
//! (`policy.branches`). It begins them itself unless it has them (as `n`). The first tokens of those that
//! are forked are then drawn at `temperature` (1) of the 64 most likely, all others by the device with the
//! request's own parameters.
//!
//! Cost: rows are inspected at the first token and where texts are given up, and then for no logits. The
//! answer is the best of the branches that were not pruned.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

mod race;
mod settings;
#[cfg(test)]
mod tests;

use race::Race;
use settings::Settings;
use tokenmill_plugin_common::{Args, Requests, config};
use tokenmill_plugin_draw::{draw, sum, uniform, weights};
use tokenmill_policy::sample::{Choices, Knobs, Logits, Sampler, View};
use tokenmill_policy::{Error, Host};

/// Candidates for the first tokens.
const FIRST: u32 = 64;

/// See the crate's text.
#[derive(Default)]
pub struct BestOfN {
    defaults: Settings,
    /// Why a request is refused, if it is.
    known: Requests<Result<Race, String>>,
    /// Rows of this step from which texts are begun, and how many beside the row's own.
    beginning: Vec<(u32, u32)>,
}

impl Sampler for BestOfN {
    fn configure(&mut self, text: &str, _: Host) -> Result<(), Error> {
        let defaults: Settings = config(text)?;
        self.defaults = defaults.check().map_err(Error::BadConfig)?;
        Ok(())
    }

    fn plan(&mut self, view: &dyn View, knobs: &mut Knobs) -> Result<(), Error> {
        self.beginning.clear();
        let defaults = self.defaults;
        let (generated, scores) = (view.generated(), view.scores());
        for (row, (&id, &request)) in view.ids().iter().zip(view.requests()).enumerate() {
            match self.known.get(request, id, || defaults.of(Args::new(view, row)).map(Race::new)) {
                Ok(race) => race.see(id, generated[row], scores[row]),
                Err(why) => knobs.refuse.push((row as u32, why.clone())),
            }
        }
        // After all were seen: who is given up depends on the others.
        for (row, (&id, &request)) in view.ids().iter().zip(view.requests()).enumerate() {
            let Some(Ok(race)) = self.known.find(request) else { continue };
            race.forget(view.finished());
            race.judge();
            let missing = race.missing();
            race.begin();
            if missing > 0 {
                self.beginning.push((row as u32, missing));
            }
            if missing > 0 || race.gave_up(id) {
                knobs.inspect.push(row as u32);
            }
        }
        self.known.forget(view.finished());
        Ok(())
    }

    /// Rows that begin a request's texts are forked; the others are of branches that are given up, which
    /// end by not being listed.
    fn pick(
        &mut self,
        view: &dyn View,
        logits: &mut dyn Logits,
        _: &[u32],
        choices: &mut Choices,
    ) -> Result<(), Error> {
        for (row, missing) in std::mem::take(&mut self.beginning) {
            let at = row as usize;
            let Some(Ok(race)) = self.known.find(view.requests()[at]) else { continue };
            let (tokens, logprobs) = logits.top_k(row, FIRST.min(logits.vocab()))?;
            let weights = weights(&logprobs, race.temperature());
            let total = sum(&weights);
            let draw = |nth| tokens[draw(&weights, total, uniform(view.seeds()[at], nth))];
            choices.accept.extend((0..=u64::from(missing)).map(|nth| (row, draw(nth))));
        }
        Ok(())
    }
}

tokenmill_guest::export_sampler!(BestOfN);
