//! Temperature, top-k, top-p and min-p: the usual parameters as a policy, applied by the device.
//!
//! Arguments of a request: `temperature`, `top_k`, `top_p`, `min_p`; the configuration has the same fields,
//! for requests without them: `{"temperature": 0.7, "top_p": 0.9}`. What neither sets stays the request's own. The
//! tokens are those that the same parameters give without a policy, as the device draws them in the same way.
//!
//! Sources: top-k, Fan et al. 2018 (arXiv 1805.04833); top-p, Holtzman et al. 2019 (arXiv 1904.09751);
//! min-p, Nguyen et al. 2024 (arXiv 2407.01082).
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

use tokenmill_plugin_common::{Args, Sequences, config};
use tokenmill_policy::sample::{Knobs, Sampler, View};
use tokenmill_policy::{Error, Host, Params};

/// See the crate's text.
#[derive(Default)]
pub struct Standard {
    defaults: Parameters,
    /// What each sequence's request asks for, or why it is refused.
    known: Sequences<Result<Parameters, String>>,
}

/// A parameter that is none stays the request's own.
#[derive(Clone, Copy, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Parameters {
    temperature: Option<f32>,
    top_k: Option<u32>,
    top_p: Option<f32>,
    min_p: Option<f32>,
}

impl Parameters {
    /// What the request of a row asks for; what it leaves out is as in `self`.
    fn of(self, args: Args) -> Result<Self, String> {
        let asked = Self {
            temperature: args.get("temperature")?.or(self.temperature),
            top_k: args.get("top_k")?.or(self.top_k),
            top_p: args.get("top_p")?.or(self.top_p),
            min_p: args.get("min_p")?.or(self.min_p),
        };
        asked.check().map_err(|why| format!("policy.args.{why}"))?;
        Ok(asked)
    }

    fn check(self) -> Result<(), String> {
        let off = Params::default();
        let params = Params {
            temperature: self.temperature.unwrap_or(off.temperature),
            top_k: self.top_k.unwrap_or(off.top_k),
            top_p: self.top_p.unwrap_or(off.top_p),
            min_p: self.min_p.unwrap_or(off.min_p),
            ..off
        };
        params.check(u32::MAX).map_err(|(field, why)| format!("{field} {why}"))
    }
}

impl Sampler for Standard {
    fn configure(&mut self, text: &str, _: Host) -> Result<(), Error> {
        self.defaults = config(text)?;
        self.defaults.check().map_err(Error::BadConfig)
    }

    fn plan(&mut self, view: &dyn View, knobs: &mut Knobs) -> Result<(), Error> {
        self.known.forget(view.finished());
        let defaults = self.defaults;
        for (row, &id) in view.ids().iter().enumerate() {
            let known = self.known.get(id, || defaults.of(Args::new(view, row)));
            let row = row as u32;
            match known {
                Ok(Parameters { temperature, top_k, top_p, min_p }) => {
                    knobs.temperature.extend(temperature.map(|value| (row, value)));
                    knobs.top_k.extend(top_k.map(|value| (row, value)));
                    knobs.top_p.extend(top_p.map(|value| (row, value)));
                    knobs.min_p.extend(min_p.map(|value| (row, value)));
                }
                Err(why) => knobs.refuse.push((row, why.clone())),
            }
        }
        Ok(())
    }
}

tokenmill_guest::export_sampler!(Standard);

#[cfg(test)]
mod tests {
    use super::*;
    use std::{borrow::Cow, sync::Arc};
    use tokenmill_policy::{
        Silent,
        sample::{Attributes, Columns},
    };

    /// Arguments by row.
    struct Asked(&'static [&'static [(&'static str, &'static str)]]);

    impl Attributes for Asked {
        fn attribute(&self, row: usize, key: &str) -> Option<&str> {
            self.0[row].iter().find(|(name, _)| *name == key).map(|(_, value)| *value)
        }

        fn stop_tokens(&self, _: usize) -> Cow<'_, [u32]> {
            Cow::Borrowed(&[])
        }
    }

    fn configured(config: &str) -> Result<Standard, Error> {
        let mut policy = Standard::default();
        policy.configure(config, Arc::new(Silent::default()))?;
        Ok(policy)
    }

    fn plan(policy: &mut Standard, ids: &[u64], asked: &Asked) -> Knobs {
        let mut knobs = Knobs::default();
        let view = Columns { ids, attributes: Some(asked), ..Columns::default() };
        policy.plan(&view, &mut knobs).unwrap();
        knobs
    }

    #[test]
    fn arguments_come_before_the_configuration_and_nothing_else_is_touched() {
        let mut policy = configured(r#"{"temperature": 0.5, "top_k": 9}"#).unwrap();
        let asked = Asked(&[&[("temperature", "0"), ("min_p", "0.25")], &[("top_p", "0.9")]]);
        let expected = Knobs {
            temperature: vec![(0, 0.0), (1, 0.5)],
            top_k: vec![(0, 9), (1, 9)],
            top_p: vec![(1, 0.9)],
            min_p: vec![(0, 0.25)],
            ..Knobs::default()
        };
        assert_eq!(plan(&mut policy, &[7, 8], &asked), expected);
        assert_eq!(plan(&mut configured("").unwrap(), &[7], &Asked(&[&[]])), Knobs::default());
    }

    #[test]
    fn rows_change_places_and_sequences_keep_their_arguments() {
        let mut policy = configured("{}").unwrap();
        let asked = Asked(&[&[("top_k", "1")], &[("top_k", "2")]]);
        plan(&mut policy, &[7, 8], &asked);
        assert_eq!(plan(&mut policy, &[8, 7], &asked).top_k, [(0, 2), (1, 1)]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let asked = Asked(&[&[("top_p", "2")], &[("top_k", "many")], &[("temperature", "NaN")]]);
        let refused = plan(&mut configured("").unwrap(), &[1, 2, 3], &asked).refuse;
        let expected = [
            (0, "policy.args.top_p must be above 0 and at most 1".to_owned()),
            (1, "policy.args.top_k is not of the right type: many".to_owned()),
            (2, "policy.args.temperature must be at least 0".to_owned()),
        ];
        assert_eq!(refused, expected);
        let why = |config| configured(config).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(why(r#"{"temprature": 1}"#).contains("unknown field `temprature`"));
        assert_eq!(why(r#"{"min_p": 3}"#), "policy configuration: min_p must be between 0 and 1");
    }
}
