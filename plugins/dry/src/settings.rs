//! What a request asks for, and which tokens break a sequence.

use std::sync::Arc;

use tokenmill_plugin_common::{Args, config};
use tokenmill_policy::Host;
use tokenmill_policy::sample::View;

#[derive(Clone, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) multiplier: f32,
    pub(crate) base: f32,
    pub(crate) allowed_length: u32,
    pub(crate) penalty_last_n: i32,
    pub(crate) sequence_breakers: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            multiplier: 0.8,
            base: 1.75,
            allowed_length: 2,
            penalty_last_n: -1,
            sequence_breakers: ["\n", ":", "\"", "*"].map(str::to_owned).to_vec(),
        }
    }
}

impl Settings {
    pub(crate) fn of(&self, args: Args, view: &dyn View, row: usize) -> Result<Self, String> {
        let breakers = view.attribute(row, "sequence_breakers").map(|text| {
            let not = |_| "policy.args.sequence_breakers must be a list of strings".to_owned();
            config(&text).map_err(not)
        });
        let asked = Self {
            multiplier: args.get("multiplier")?.unwrap_or(self.multiplier),
            base: args.get("base")?.unwrap_or(self.base),
            allowed_length: args.get("allowed_length")?.unwrap_or(self.allowed_length),
            penalty_last_n: args.get("penalty_last_n")?.unwrap_or(self.penalty_last_n),
            sequence_breakers: breakers.transpose()?.unwrap_or_else(|| self.sequence_breakers.clone()),
        };
        asked.check().map_err(|why| format!("policy.args.{why}"))
    }

    pub(crate) fn check(self) -> Result<Self, String> {
        if !(0.0..=100.0).contains(&self.multiplier) {
            return Err("multiplier must be between 0 and 100".into());
        }
        if !(1.0..=10.0).contains(&self.base) {
            return Err("base must be between 1 and 10".into());
        }
        if self.allowed_length == 0 {
            return Err("allowed_length must be at least 1".into());
        }
        if self.penalty_last_n < -1 {
            return Err("penalty_last_n must be at least -1".into());
        }
        if self.sequence_breakers.len() > 16 || self.sequence_breakers.iter().any(|one| one.len() > 40) {
            return Err("sequence_breakers must be at most 16 strings of at most 40 bytes".into());
        }
        if self.sequence_breakers.iter().any(String::is_empty) {
            return Err("sequence_breakers must not have an empty string".into());
        }
        Ok(self)
    }
}

/// Tokens that break a sequence, in order.
pub(crate) type Breakers = Arc<[u32]>;

/// Those whose text contains one of `texts`, and the last token of each.
pub(crate) fn containing(texts: &[String], host: &Host) -> Breakers {
    let (starts, bytes) = host.token_bytes(0, host.vocab());
    let contains = |bounds: &[u32]| {
        let token = bytes.get(bounds[0] as usize..bounds[1] as usize).unwrap_or_default();
        texts.iter().any(|text| token.windows(text.len()).any(|window| window == text.as_bytes()))
    };
    let all = (0..).zip(starts.windows(2)).filter(|(_, bounds)| contains(bounds)).map(|(token, _)| token);
    in_order(all.chain(last_tokens(texts, host)))
}

/// The last token of each text, whose cost does not grow with the vocabulary.
pub(crate) fn ending(texts: &[String], host: &Host) -> Breakers {
    in_order(last_tokens(texts, host))
}

/// The letter before a text keeps tokenizers from putting a space there.
fn last_tokens(texts: &[String], host: &Host) -> impl Iterator<Item = u32> {
    texts.iter().filter_map(|text| host.tokenize(&format!("a{text}")).pop())
}

fn in_order(tokens: impl Iterator<Item = u32>) -> Breakers {
    let mut tokens: Vec<u32> = tokens.collect();
    tokens.sort_unstable();
    tokens.into()
}
