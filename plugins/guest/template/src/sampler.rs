//! Starts hot and cools down: the temperature falls from `start` to 0.2 over the first 64 tokens.
//!
//! A request chooses it with `"policy": {"sampler": "NAME", "args": {"start": 1.5}}`.

use tokenmill_policy::sample::{Knobs, Sampler, View};
use tokenmill_policy::{Error, Host};

#[derive(Default)]
pub struct Policy {
    /// Of requests that do not say.
    start: f32,
}

const END: f32 = 0.2;
const TOKENS: f32 = 64.0;

impl Sampler for Policy {
    /// Once, before anything else; `config` is what the operator gave.
    fn configure(&mut self, config: &str, host: Host) -> Result<(), Error> {
        let config = config.trim();
        self.start = if config.is_empty() { Ok(1.2) } else { config.parse() }
            .map_err(|_| Error::BadConfig("must be one number, the first temperature".into()))?;
        host.log(&format!("starts at {}, for {} tokens", self.start, host.vocab()));
        Ok(())
    }

    /// Once per step, for all rows of requests that chose this policy, while the device computes their logits.
    fn plan(&mut self, view: &dyn View, knobs: &mut Knobs) -> Result<(), Error> {
        for (row, &generated) in view.generated().iter().enumerate() {
            let start = match view.attribute(row, "start").map(|text| text.parse::<f32>()) {
                None => self.start,
                Some(Ok(start)) if (END..=10.0).contains(&start) => start,
                Some(_) => {
                    knobs.refuse.push((row as u32, "policy.args.start must be from 0.2 to 10".into()));
                    continue;
                }
            };
            let cooled = (generated as f32 / TOKENS).min(1.0);
            knobs.temperature.push((row as u32, start * (1.0 - cooled) + END * cooled));
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
    fn it_cools_down() {
        let mut policy = Policy { start: 1.2 };
        let mut knobs = Knobs::default();
        let view = Columns { generated: &[0, 64, 500], ..Columns::default() };
        policy.plan(&view, &mut knobs).unwrap();
        assert_eq!(knobs.temperature, [(0, 1.2), (1, 0.2), (2, 0.2)]);
    }
}
