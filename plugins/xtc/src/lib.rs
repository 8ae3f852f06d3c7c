//! XTC, exclude top choices: now and then, of the tokens that reach a threshold all but the least likely
//! are left out, so that text leaves the beaten track without becoming incoherent.
//!
//! Source: P. E. Weidmann 2024 (text-generation-webui pull request 6335), as in llama.cpp's
//! `llama_sampler_init_xtc`. The order is that of llama.cpp's chain: top-k, XTC, temperature.
//!
//! Arguments: `probability` of a step to exclude (0.5), `threshold` (0.1; above 0.5 never excludes),
//! `top_k` (40), and `temperature` above 0 (1); the configuration has the same fields.
//!
//! Cost: `plan` throws the coin. A row that excludes nothing is sampled by the device; the others are
//! inspected, for one top-k, and there the request's penalties and biases do not apply.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

#[cfg(test)]
mod tests;

use tokenmill_plugin_common::{Args, Candidates, Sequences, config};
use tokenmill_plugin_draw::{draw, sum, uniform, weights};
use tokenmill_policy::sample::{Choices, Knobs, Logits, Sampler, View};
use tokenmill_policy::{Error, Host};

/// See the crate's text.
#[derive(Default)]
pub struct Xtc {
    defaults: Settings,
    /// Why a request is refused, if it is.
    known: Sequences<Result<Settings, String>>,
}

#[derive(Clone, Copy, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    probability: f64,
    threshold: f64,
    top_k: u32,
    temperature: f32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { probability: 0.5, threshold: 0.1, top_k: 40, temperature: 1.0 }
    }
}

impl Settings {
    fn of(self, args: Args) -> Result<Self, String> {
        let asked = Self {
            probability: args.get("probability")?.unwrap_or(self.probability),
            threshold: args.get("threshold")?.unwrap_or(self.threshold),
            top_k: args.get("top_k")?.unwrap_or(self.top_k),
            temperature: args.get("temperature")?.unwrap_or(self.temperature),
        };
        asked.check().map_err(|why| format!("policy.args.{why}"))
    }

    fn check(self) -> Result<Self, String> {
        if !(0.0..=1.0).contains(&self.probability) {
            return Err("probability must be between 0 and 1".into());
        }
        if !(0.0..=1.0).contains(&self.threshold) {
            return Err("threshold must be between 0 and 1".into());
        }
        if !(1..=1024).contains(&self.top_k) {
            return Err("top_k must be between 1 and 1024".into());
        }
        if !(self.temperature > 0.0 && self.temperature <= 100.0) {
            return Err("temperature must be above 0 and at most 100".into());
        }
        Ok(self)
    }

    /// Whether the step of a row with this random number may exclude.
    fn excludes(&self, seed: u64) -> bool {
        self.threshold <= 0.5 && uniform(seed, 0) < self.probability
    }
}

/// How many of the first tokens are left out: all that reach the threshold but the last of them.
fn excluded(logprobs: &[f32], threshold: f64) -> usize {
    let weights = weights(logprobs, 1.0);
    let least = threshold * sum(&weights);
    weights.iter().take_while(|&&weight| weight >= least).count().saturating_sub(1)
}

impl Sampler for Xtc {
    fn configure(&mut self, text: &str, _: Host) -> Result<(), Error> {
        let defaults: Settings = config(text)?;
        self.defaults = defaults.check().map_err(Error::BadConfig)?;
        Ok(())
    }

    fn plan(&mut self, view: &dyn View, knobs: &mut Knobs) -> Result<(), Error> {
        self.known.forget(view.finished());
        let defaults = self.defaults;
        let seeds = view.seeds();
        for (at, &id) in view.ids().iter().enumerate() {
            let row = at as u32;
            match self.known.get(id, || defaults.of(Args::new(view, at))) {
                Ok(settings) if settings.excludes(seeds[at]) => knobs.inspect.push(row),
                Ok(settings) => {
                    knobs.temperature.push((row, settings.temperature));
                    knobs.top_k.push((row, settings.top_k));
                    knobs.top_p.push((row, 1.0));
                    knobs.min_p.push((row, 0.0));
                }
                Err(why) => knobs.refuse.push((row, why.clone())),
            }
        }
        Ok(())
    }

    fn pick(
        &mut self,
        view: &dyn View,
        logits: &mut dyn Logits,
        rows: &[u32],
        choices: &mut Choices,
    ) -> Result<(), Error> {
        let token = |settings: &mut Settings, row: Candidates<'_>| {
            let first = excluded(row.logprobs, settings.threshold);
            let weights = weights(&row.logprobs[first..], settings.temperature);
            Some(row.tokens[first + draw(&weights, sum(&weights), uniform(row.seed, 1))])
        };
        self.known.choose(view, logits, (rows, choices), |settings| settings.top_k, token)
    }
}

tokenmill_guest::export_sampler!(Xtc);
