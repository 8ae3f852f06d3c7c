//! What a request asks for, and which tokens break a sequence.

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

/// The texts of all tokens.
#[derive(Default)]
pub(crate) struct Vocabulary {
    host: Option<Host>,
    starts: Vec<u32>,
    bytes: Vec<u8>,
}

impl Vocabulary {
    pub(crate) fn new(host: Host) -> Self {
        let (starts, bytes) = host.token_bytes(0, host.vocab());
        Self { host: Some(host), starts, bytes }
    }

    /// The last token of each breaker. The letter before it keeps tokenizers from putting a space there.
    pub(crate) fn last_tokens(&self, breakers: &[String]) -> Vec<u32> {
        let Some(host) = &self.host else { return Vec::new() };
        breakers.iter().filter_map(|breaker| host.tokenize(&format!("a{breaker}")).pop()).collect()
    }

    pub(crate) fn contains(&self, token: u32, text: &str) -> bool {
        let at = token as usize;
        let bounds = self.starts.get(at).zip(self.starts.get(at + 1));
        let bytes = bounds.and_then(|(&from, &to)| self.bytes.get(from as usize..to as usize));
        let text = text.as_bytes();
        bytes.is_some_and(|bytes| bytes.windows(text.len()).any(|window| window == text))
    }
}
