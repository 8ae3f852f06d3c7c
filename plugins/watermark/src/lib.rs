//! A watermark: text that a reader cannot tell from other text, and that anyone with the key can.
//!
//! Source: Kirchenbauer et al. 2023 (arXiv 2301.10226), algorithm 2: the token before seeds a green list of
//! the part `gamma` of the vocabulary, and the logits of green tokens rise by `delta`. The list is that of
//! a keyed hash of both tokens, so whether one token is green costs a hash and not a permutation of the
//! vocabulary. [`detect`] is the other end.
//!
//! Configuration, the operator's alone: `key` (0; below 2^53; keep it secret), `gamma` (0.25), `delta` (2).
//! Arguments of a request: `temperature` (1; 0 takes the most likely) and `top_k`, how many candidates
//! there are (64).
//!
//! Cost: every row is inspected, for one top-k; the request's penalties and biases do not apply. Biases
//! from `plan` would need no inspection, but at a vocabulary of 49,152 they are 12,288 a row, 6 MB for 64
//! rows.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

mod detect;
#[cfg(test)]
mod tests;

pub use detect::{Evidence, detect};
use tokenmill_plugin_common::{Args, Candidates, Sequences, config};
use tokenmill_plugin_draw::{draw, mix, sum, uniform, weights};
use tokenmill_policy::sample::{Choices, Knobs, Logits, Sampler, View};
use tokenmill_policy::{Error, Host};

/// See the crate's text.
#[derive(Default)]
pub struct Watermark {
    settings: Settings,
    /// Why a request is refused, if it is.
    known: Sequences<Result<Known, String>>,
}

#[derive(serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    key: u64,
    gamma: f32,
    delta: f32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { key: 0, gamma: 0.25, delta: 2.0 }
    }
}

/// What is known of a sequence.
struct Known {
    temperature: f32,
    top_k: u32,
    last: u32,
}

impl Known {
    fn new(args: Args) -> Result<Self, String> {
        let temperature = args.get("temperature")?.unwrap_or(1.0);
        let top_k = args.get("top_k")?.unwrap_or(64);
        if !(0.0..=100.0).contains(&temperature) {
            return Err("policy.args.temperature must be between 0 and 100".into());
        }
        if !(1..=1024).contains(&top_k) {
            return Err("policy.args.top_k must be between 1 and 1024".into());
        }
        Ok(Self { temperature, top_k, last: 0 })
    }
}

/// Whether `token` is on the list that `before` seeds.
fn green(key: u64, gamma: f32, before: u32, token: u32) -> bool {
    uniform(mix(key, u64::from(before)), u64::from(token)) < f64::from(gamma)
}

impl Settings {
    /// Draws one of the candidates, with `u` in [0, 1).
    fn pick(&self, known: &Known, tokens: &[u32], logprobs: &[f32], u: f64) -> u32 {
        let raised = |(&token, logprob): (&u32, &f32)| {
            let green = green(self.key, self.gamma, known.last, token);
            (token, if green { logprob + self.delta } else { *logprob })
        };
        let mut raised: Vec<(u32, f32)> = tokens.iter().zip(logprobs).map(raised).collect();
        raised.sort_by(|a, b| b.1.total_cmp(&a.1));
        let (tokens, logits): (Vec<u32>, Vec<f32>) = raised.into_iter().unzip();
        match known.temperature {
            0.0 => tokens[0],
            temperature => {
                let weights = weights(&logits, temperature);
                tokens[draw(&weights, sum(&weights), u)]
            }
        }
    }
}

impl Sampler for Watermark {
    fn configure(&mut self, text: &str, _: Host) -> Result<(), Error> {
        self.settings = config(text)?;
        if !(self.settings.gamma > 0.0 && self.settings.gamma < 1.0) {
            return Err(Error::BadConfig("gamma must be between 0 and 1".into()));
        }
        if !(0.0..=100.0).contains(&self.settings.delta) {
            return Err(Error::BadConfig("delta must be between 0 and 100".into()));
        }
        Ok(())
    }

    fn plan(&mut self, view: &dyn View, knobs: &mut Knobs) -> Result<(), Error> {
        self.known.forget(view.finished());
        for (row, &id) in view.ids().iter().enumerate() {
            match self.known.get(id, || Known::new(Args::new(view, row))) {
                Ok(known) => {
                    if let Some(&last) = view.accepted().get(row).last() {
                        known.last = last;
                    }
                    knobs.inspect.push(row as u32);
                }
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
        let settings = &self.settings;
        let token = |known: &mut Known, row: Candidates<'_>| {
            Some(settings.pick(known, row.tokens, row.logprobs, uniform(row.seed, 0)))
        };
        self.known.choose(view, logits, (rows, choices), |known| known.top_k, token)
    }
}

tokenmill_guest::export_sampler!(Watermark);
