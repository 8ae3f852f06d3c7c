//! Mirostat 2.0: keeps the surprise of the text near a target by moving the cut below which a token is too
//! unlikely.
//!
//! Source: Basu et al. 2020 (arXiv 2007.14966), algorithm 2, as in llama.cpp's
//! `llama_sampler_init_mirostat_v2`: the surprise of a token is that among the tokens that were kept.
//! Temperature 1; `tau` takes its place.
//!
//! Arguments: `tau`, the target in bits per token (5), and `eta`, how fast the cut follows (0.1); the
//! configuration has the same fields.
//!
//! Cost: every row is inspected, for one top-k of 64, or up to 512 while the cut lies beyond: it moves away
//! where the text is less surprising than `tau`. The request's penalties and biases do not apply. The cut
//! cannot be known from the text: after a trap, and in a fork, it begins anew.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

#[cfg(test)]
mod tests;

use tokenmill_plugin_common::{Args, Candidates, FEW, Sequences, config};
use tokenmill_plugin_draw::{draw, sum, uniform, weights};
use tokenmill_policy::sample::{Choices, Knobs, Logits, Sampler, View};
use tokenmill_policy::{Error, Host};

/// See the crate's text.
#[derive(Default)]
pub struct MirostatV2 {
    defaults: Settings,
    /// Why a request is refused, if it is.
    known: Sequences<Result<Cut, String>>,
}

#[derive(Clone, Copy, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    tau: f32,
    eta: f32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { tau: 5.0, eta: 0.1 }
    }
}

impl Settings {
    fn of(self, args: Args) -> Result<Self, String> {
        let asked =
            Self { tau: args.get("tau")?.unwrap_or(self.tau), eta: args.get("eta")?.unwrap_or(self.eta) };
        asked.check().map_err(|why| format!("policy.args.{why}"))
    }

    fn check(self) -> Result<Self, String> {
        if !(self.tau > 0.0 && self.tau <= 20.0) {
            return Err("tau must be above 0 and at most 20 bits".into());
        }
        if !(self.eta > 0.0 && self.eta <= 1.0) {
            return Err("eta must be above 0 and at most 1".into());
        }
        Ok(self)
    }
}

/// The state of one sequence.
#[derive(Clone, Copy)]
struct Cut {
    settings: Settings,
    /// Surprise above which a token is left out, in bits: mu of the paper.
    most: f32,
}

impl Cut {
    fn new(settings: Settings) -> Self {
        Self { settings, most: 2.0 * settings.tau }
    }

    /// Draws a token, and moves the cut; none if it lies beyond the candidates.
    fn pick(&mut self, row: &Candidates<'_>, u: f64) -> Option<u32> {
        let kept = row.logprobs.partition_point(|logprob| -logprob * std::f32::consts::LOG2_E <= self.most);
        if kept == row.logprobs.len() && !row.last {
            return None;
        }
        let weights = weights(&row.logprobs[..kept.max(1)], 1.0);
        let total = sum(&weights);
        let drawn = draw(&weights, total, u);
        let observed = -libm::log2(weights[drawn] / total) as f32;
        self.most -= self.settings.eta * (observed - self.settings.tau);
        Some(row.tokens[drawn])
    }
}

impl Sampler for MirostatV2 {
    fn configure(&mut self, text: &str, _: Host) -> Result<(), Error> {
        let defaults: Settings = config(text)?;
        self.defaults = defaults.check().map_err(Error::BadConfig)?;
        Ok(())
    }

    fn plan(&mut self, view: &dyn View, knobs: &mut Knobs) -> Result<(), Error> {
        self.known.forget(view.finished());
        let defaults = self.defaults;
        for (row, &id) in view.ids().iter().enumerate() {
            let known = self.known.get(id, || defaults.of(Args::new(view, row)).map(Cut::new));
            match known {
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
        let token = |cut: &mut Cut, row: Candidates<'_>| cut.pick(&row, uniform(row.seed, 0));
        self.known.choose(view, logits, (rows, choices), |_| FEW, token)
    }
}

tokenmill_guest::export_sampler!(MirostatV2);
