//! Locally typical sampling: keeps the tokens whose surprise is nearest to what the row's entropy lets one
//! expect, as many as make up the mass `typical_p`.
//!
//! Source: Meister et al. 2022 (arXiv 2202.00666), as in transformers' `TypicalLogitsWarper`: a token as
//! near as the last one kept is kept too.
//!
//! Arguments: `typical_p` in (0, 1] (0.9), and `temperature` above 0 (1), which applies to what was kept,
//! as in llama.cpp's order; the configuration has the same fields.
//!
//! Cost: every row is inspected, for one top-k of 64, or up to 512 until they are all but 0.01 % of the mass;
//! the entropy is theirs, as that of the whole row would take the host half a millisecond. The request's
//! penalties and biases do not apply.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

#[cfg(test)]
mod tests;

use tokenmill_plugin_common::{Args, Sequences, config};
use tokenmill_plugin_draw::{candidates, draw, mass, uniform, weights};
use tokenmill_policy::sample::{Choices, Knobs, Logits, Sampler, View};
use tokenmill_policy::{Error, Host};

/// Mass of the candidates that leaves out nothing of weight.
const ENOUGH: f64 = 0.9999;

/// See the crate's text.
#[derive(Default)]
pub struct Typical {
    defaults: Settings,
    /// Why a request is refused, if it is.
    known: Sequences<Result<Settings, String>>,
}

#[derive(Clone, Copy, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    typical_p: f32,
    temperature: f32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { typical_p: 0.9, temperature: 1.0 }
    }
}

impl Settings {
    fn of(self, args: Args) -> Result<Self, String> {
        let asked = Self {
            typical_p: args.get("typical_p")?.unwrap_or(self.typical_p),
            temperature: args.get("temperature")?.unwrap_or(self.temperature),
        };
        asked.check().map_err(|why| format!("policy.args.{why}"))
    }

    fn check(self) -> Result<Self, String> {
        if !(self.typical_p > 0.0 && self.typical_p <= 1.0) {
            return Err("typical_p must be above 0 and at most 1".into());
        }
        if !(self.temperature > 0.0 && self.temperature <= 100.0) {
            return Err("temperature must be above 0 and at most 100".into());
        }
        Ok(self)
    }
}

/// The typical tokens of a row and their log-probabilities, most likely first.
fn typical(logits: &mut dyn Logits, row: u32, typical_p: f32) -> Result<(Vec<u32>, Vec<f32>), Error> {
    let (tokens, logprobs) = candidates(logits, row, |logprobs| mass(logprobs) > ENOUGH)?;
    let weights = weights(&logprobs, 1.0);
    let total: f64 = weights.iter().sum();
    let norm = libm::log(total);
    let surprise = |logprob: f32| f64::from(logprobs[0] - logprob) + norm;
    let likely = weights.iter().zip(&logprobs).filter(|(weight, _)| **weight > 0.0);
    let entropy: f64 = likely.map(|(weight, logprob)| weight / total * surprise(*logprob)).sum();
    let far: Vec<f64> = logprobs.iter().map(|logprob| (surprise(*logprob) - entropy).abs()).collect();
    let mut near: Vec<usize> = (0..far.len()).collect();
    near.sort_by(|&a, &b| far[a].total_cmp(&far[b]));
    let mut sum = 0.0;
    let last = near.iter().find(|&&nth| {
        sum += weights[nth] / total;
        sum >= f64::from(typical_p)
    });
    let reach = last.map_or(f64::INFINITY, |&nth| far[nth]);
    let kept = tokens.into_iter().zip(&logprobs).zip(&far).filter(|(_, far)| **far <= reach);
    Ok(kept.map(|((token, logprob), _)| (token, *logprob)).unzip())
}

impl Sampler for Typical {
    fn configure(&mut self, text: &str, _: Host) -> Result<(), Error> {
        let defaults: Settings = config(text)?;
        self.defaults = defaults.check().map_err(Error::BadConfig)?;
        Ok(())
    }

    fn plan(&mut self, view: &dyn View, knobs: &mut Knobs) -> Result<(), Error> {
        self.known.forget(view.finished());
        let defaults = self.defaults;
        for (row, &id) in view.ids().iter().enumerate() {
            match self.known.get(id, || defaults.of(Args::new(view, row))) {
                Ok(_) => knobs.inspect.push(row as u32),
                Err(why) => knobs.refuse.push((row as u32, why.clone())),
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
        self.known.choose(view, rows, choices, |settings, row, seed| {
            let (tokens, logprobs) = typical(logits, row, settings.typical_p)?;
            Ok(tokens[draw(&weights(&logprobs, settings.temperature), uniform(seed, 0))])
        })
    }
}

tokenmill_guest::export_sampler!(Typical);
