//! Cooling: the temperature falls from `from` to `to` over the first `tokens` tokens of an answer.
//!
//! Configuration: `{"from": 1.2, "to": 0.4, "tokens": 64}`; a request can say `"policy": {"sampler": "NAME",
//! "args": {"to": 0.1}}`.

use tokenmill_plugin_common::{Args, Sequences, config};
use tokenmill_policy::sample::{Knobs, Sampler, View};
use tokenmill_policy::{Error, Host};

#[derive(Default)]
pub struct Policy {
    settings: Settings,
    /// What each sequence cools down to, or what is wrong with its request.
    ends: Sequences<Result<f32, String>>,
}

#[derive(serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    from: f32,
    to: f32,
    tokens: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { from: 1.2, to: 0.4, tokens: 64 }
    }
}

impl Sampler for Policy {
    fn configure(&mut self, text: &str, _: Host) -> Result<(), Error> {
        self.settings = config(text)?;
        Ok(())
    }

    /// Once per step, while the device computes: what it shall do with each row of logits.
    fn plan(&mut self, view: &dyn View, knobs: &mut Knobs) -> Result<(), Error> {
        self.ends.forget(view.finished());
        let Settings { from, to, tokens } = self.settings;
        for (row, (&id, &generated)) in view.ids().iter().zip(view.generated()).enumerate() {
            let end = self.ends.get(id, || Ok(Args::new(view, row).get("to")?.unwrap_or(to)));
            let part = (generated as f32 / tokens.max(1) as f32).min(1.0);
            match end {
                Ok(end) if *end >= 0.0 => knobs.temperature.push((row as u32, from + (*end - from) * part)),
                Ok(_) => knobs.refuse.push((row as u32, "policy.args.to must be at least 0".into())),
                Err(why) => knobs.refuse.push((row as u32, why.clone())),
            }
        }
        Ok(())
    }
}

tokenmill_guest::export_sampler!(Policy);

#[cfg(test)]
mod tests {
    use super::*;
    use tokenmill_policy::sample::Columns;

    #[test]
    fn the_temperature_falls() {
        let view = Columns { ids: &[7, 8, 9], generated: &[0, 32, 500], ..Columns::default() };
        let mut knobs = Knobs::default();
        Policy::default().plan(&view, &mut knobs).expect("a decision");
        let temperatures: Vec<f32> = knobs.temperature.iter().map(|(_, value)| *value).collect();
        for (found, expected) in temperatures.iter().zip([1.2, 0.8, 0.4]) {
            assert!((found - expected).abs() < 1e-6, "{temperatures:?}");
        }
    }
}
