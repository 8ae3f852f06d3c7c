//! The sampler of `host/grammar` as a component. The configuration is `{"ends": [token, …], "schema": {…}}`; a
//! request says `"args": {"grammar": "1"}`.

use std::sync::Arc;

use serde_json::Value;
use tokenmill_grammar::{Grammar, Grammars, Prepared};
use tokenmill_policy::sample::{Choices, Knobs, Logits, Sampler, View};
use tokenmill_policy::{Error, Host};

#[derive(Default)]
pub struct Constrained(Option<(Box<dyn Sampler>, Prepared)>);

impl Sampler for Constrained {
    fn configure(&mut self, text: &str, host: Host) -> Result<(), Error> {
        let bad = |why: String| Error::BadConfig(why);
        let config: Value = serde_json::from_str(text).map_err(|error| bad(error.to_string()))?;
        let ends: Vec<u32> = config["ends"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|end| Some(end.as_u64()? as u32))
            .collect();
        let grammars: Arc<Grammars> = Grammars::new(&*host, &ends).map_err(|error| bad(error.to_string()))?;
        let grammar = Grammar::JsonSchema(config["schema"].clone());
        let prepared = grammars.prepare(&grammar).map_err(|error| bad(error.to_string()))?;
        self.0 = Some((grammars.sampler(), prepared));
        Ok(())
    }

    fn plan(&mut self, view: &dyn View, knobs: &mut Knobs) -> Result<(), Error> {
        self.0.as_mut().map_or(Ok(()), |(sampler, _)| sampler.plan(view, knobs))
    }

    fn pick(
        &mut self,
        view: &dyn View,
        logits: &mut dyn Logits,
        rows: &[u32],
        choices: &mut Choices,
    ) -> Result<(), Error> {
        self.0.as_mut().map_or(Ok(()), |(sampler, _)| sampler.pick(view, logits, rows, choices))
    }
}

tokenmill_guest::export_sampler!(Constrained);
