//! Tenants get equal shares, counted in tokens, whatever they ask for: virtual token counter.
//!
//! Source: Sheng et al. 2023, "Fairness in Serving Large Language Models" (arXiv 2401.00588), algorithm 2. Each
//! tenant has a counter of the tokens it got, input and output with a weight each. Prompts begin in the order
//! of their tenants' counters, and a prompt counts in this order before the next of its tenant. A tenant that
//! comes back is lifted to the least counter of those that waited meanwhile, so idling saves nothing up; if
//! none waited, to that of the last that did.
//!
//! Unlike the paper's, a prompt is charged as its chunks are computed, not as a whole when it begins; hits of
//! the prefix cache count as computed, up to what the step gave. What decodes keeps decoding.
//! Configuration: `{"input_weight": 1, "output_weight": 2}`, the paper's and the default.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

mod tenants;
#[cfg(test)]
mod tests;

use tenants::Tenants;
use tokenmill_plugin_common::{Queue, Track, config};
use tokenmill_policy::schedule::{Order, Scheduler, View};
use tokenmill_policy::{Error, Host};

/// See the crate's text.
#[derive(Default)]
pub struct FairShare {
    weights: Weights,
    tenants: Tenants,
    track: Track<Account>,
    /// What decodes, then prompts by what their tenant got.
    queue: Queue<(bool, u64)>,
}

/// What a sequence had when it was last seen.
struct Account {
    tenant: usize,
    /// Tokens of its prompt in the last order.
    given: u32,
    resident: u32,
    generated: u32,
}

#[derive(serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Weights {
    input_weight: u32,
    output_weight: u32,
}

impl Default for Weights {
    fn default() -> Self {
        Self { input_weight: 1, output_weight: 2 }
    }
}

impl Scheduler for FairShare {
    fn configure(&mut self, text: &str, _: Host) -> Result<(), Error> {
        self.weights = config(text)?;
        if self.weights.input_weight == 0 && self.weights.output_weight == 0 {
            return Err(Error::BadConfig("input_weight and output_weight must not both be 0".into()));
        }
        Ok(())
    }

    fn plan(&mut self, view: &dyn View, order: &mut Order) -> Result<(), Error> {
        self.charge(view);
        self.tenants.lift();
        let Self { weights, tenants, track, queue } = self;
        let accounts = track.entries();
        let first = order.indices.len();
        queue.plan(
            view,
            order,
            |seq| {
                if seq.decodes() {
                    return Some((false, 0));
                }
                let cost = u64::from(seq.pending) * u64::from(weights.input_weight);
                Some((true, tenants.reserve(accounts[seq.index].1.tenant, cost)))
            },
            |_, _| false,
        );
        let pending = view.pending();
        let run = order.indices.iter().zip(&order.tokens).skip(first);
        for (&i, &tokens) in run.filter(|(i, _)| pending[**i as usize] > 1) {
            accounts[i as usize].1.given = tokens;
        }
        Ok(())
    }
}

impl FairShare {
    /// Charges what was computed since the last order, and notes who waits. The engine may have clipped the
    /// order, so what counts is what a sequence holds now.
    fn charge(&mut self, view: &dyn View) {
        let Self { weights, tenants, track, .. } = self;
        let (input, output) = (u64::from(weights.input_weight), u64::from(weights.output_weight));
        let (keys, pending) = (view.tenant(), view.pending());
        let (resident, generated) = (view.resident(), view.generated());
        let first = |i: usize| Account { tenant: tenants.join(keys[i]), given: 0, resident: 0, generated: 0 };
        track.advance(view, first);
        for (i, (_, account)) in track.entries().iter_mut().enumerate() {
            let computed = resident[i].saturating_sub(account.resident).min(account.given);
            let sampled = generated[i].saturating_sub(account.generated);
            let cost = u64::from(computed) * input + u64::from(sampled) * output;
            tenants.charge(account.tenant, cost, pending[i] > 0 && resident[i] == 0);
            (account.given, account.resident, account.generated) = (0, resident[i], generated[i]);
        }
        for account in track.ended() {
            tenants.leave(account.tenant);
        }
    }
}

tokenmill_guest::export_scheduler!(FairShare);
