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

use std::ops::Range;

use tokenmill_plugin_common::{Args, Candidates, FEW, Sequences, config};
use tokenmill_plugin_draw::{draw, exp, sum, sum_of, uniform, weights};
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

/// Which of a row's candidates are typical, by their log-probabilities, most likely first, and their weights, whose sum
/// is `total`.
///
/// Surprises are counted from that of the first, and so is the entropy: it is their mean.
fn typical(logprobs: &[f32], (weights, total): (&[f64], f64), typical_p: f32) -> Range<usize> {
    let surprise = |nth: usize| f64::from(logprobs[0] - logprobs[nth]);
    let possible = weights.partition_point(|weight| *weight > 0.0);
    let mean = sum_of(possible, |nth| weights[nth] * surprise(nth)) / total;
    // Distances grow with the surprise: the nearest are to either side of the mean, infinity is behind the ends.
    let far = |nth: usize| if nth < possible { (surprise(nth) - mean).abs() } else { f64::INFINITY };
    let mut low = logprobs.partition_point(|logprob| f64::from(logprobs[0] - logprob) < mean);
    let (mut high, mut left, mut reach) = (low, f64::from(typical_p) * total, 0.0);
    let (mut before, mut after) = (far(low.wrapping_sub(1)), far(high));
    loop {
        let (next, below) = if before <= after { (before, true) } else { (after, false) };
        // What is as far as the last that it takes is kept too.
        let done = if left > 0.0 { next == f64::INFINITY } else { next > reach };
        if done {
            break;
        }
        reach = next;
        if below {
            low -= 1;
            left -= weights[low];
            before = far(low.wrapping_sub(1));
        } else {
            left -= weights[high];
            high += 1;
            after = far(high);
        }
    }
    low..high
}

impl Settings {
    /// Draws a token; none if the candidates leave out too much.
    fn pick(&self, row: &Candidates<'_>) -> Option<u32> {
        let mut all = weights(row.logprobs, 1.0);
        let total = sum(&all);
        if !row.last && exp(f64::from(row.logprobs[0])) * total <= ENOUGH {
            return None;
        }
        let kept = typical(row.logprobs, (&all, total), self.typical_p);
        if self.temperature != 1.0 {
            all[kept.clone()].copy_from_slice(&weights(&row.logprobs[kept.clone()], self.temperature));
        }
        let all = &all[kept.clone()];
        Some(row.tokens[kept.start + draw(all, sum(all), uniform(row.seed, 0))])
    }
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
        let token = |settings: &mut Settings, row: Candidates<'_>| settings.pick(&row);
        self.known.choose(view, logits, (rows, choices), |_| FEW, token)
    }
}

tokenmill_guest::export_sampler!(Typical);
