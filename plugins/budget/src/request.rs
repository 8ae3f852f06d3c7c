//! What a request may still say.

use std::sync::Arc;

use tokenmill_plugin_common::{Args, config};
use tokenmill_policy::sample::{Mask, View};

/// A limit that is none does not hold.
#[derive(Clone, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Rules {
    max_output: Option<u64>,
    forbid: Vec<u32>,
}

impl Rules {
    /// The stricter of these and what a row's request asks for.
    fn with(&self, view: &dyn View, row: usize) -> Result<Self, String> {
        let asked: Option<u64> = Args::new(view, row).get("max_output")?;
        let max_output = asked.into_iter().chain(self.max_output).min();
        let mut forbid = self.forbid.clone();
        if let Some(text) = view.attribute(row, "forbid") {
            let not = |_| "policy.args.forbid must be a list of token ids".to_owned();
            forbid.extend(config::<Vec<u32>>(&text).map_err(not)?);
        }
        Ok(Self { max_output, forbid })
    }

    /// What is left to say, if not everything is.
    pub(crate) fn mask(&self, vocab: u32) -> Result<Option<Mask>, String> {
        if self.forbid.is_empty() {
            return Ok(None);
        }
        let mut bits = vec![u32::MAX; vocab.div_ceil(32) as usize];
        if let Some(last) = bits.last_mut().filter(|_| !vocab.is_multiple_of(32)) {
            *last = (1 << (vocab % 32)) - 1;
        }
        for &token in &self.forbid {
            if token >= vocab {
                return Err(format!("forbid has the token {token}, but the vocabulary ends at {vocab}"));
            }
            bits[token as usize / 32] &= !(1 << (token % 32));
        }
        if bits.iter().all(|&word| word == 0) {
            return Err("forbid leaves no token at all".into());
        }
        Ok(Some(Arc::from(bits)))
    }
}

/// A request that runs.
pub(crate) struct Request {
    /// Tokens that it may still have.
    left: Option<u64>,
    mask: Option<Mask>,
}

impl Request {
    /// That of a row. One that is met in the middle, after a restart, has spent what its branches show.
    pub(crate) fn new(view: &dyn View, row: usize, rules: &Rules, vocab: u32) -> Result<Self, String> {
        let rules = rules.with(view, row)?;
        let mask = rules.mask(vocab).map_err(|why| format!("policy.args.{why}"))?;
        let id = view.requests()[row];
        let rows = view.requests().iter().zip(view.generated()).filter(|(other, _)| **other == id);
        let spent: u64 = rows.map(|(_, &generated)| u64::from(generated)).sum();
        Ok(Self { left: rules.max_output.map(|most| most.saturating_sub(spent)), mask })
    }

    /// Takes a token out of the budget; false if there is none.
    pub(crate) fn spend(&mut self) -> bool {
        let enough = self.left != Some(0);
        self.left = self.left.map(|left| left.saturating_sub(1));
        enough
    }

    pub(crate) fn mask(&self) -> Option<Mask> {
        self.mask.clone()
    }
}
