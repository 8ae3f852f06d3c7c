//! What a request asks for.

use tokenmill_plugin_common::Args;

#[derive(Clone, Copy, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) best_of: u32,
    pub(crate) keep: u32,
    pub(crate) every: u32,
    pub(crate) reject: f32,
    pub(crate) temperature: f32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { best_of: 4, keep: 1, every: 16, reject: 0.5, temperature: 1.0 }
    }
}

impl Settings {
    pub(crate) fn of(self, args: Args) -> Result<Self, String> {
        let asked = Self {
            best_of: args.get("best_of")?.unwrap_or(self.best_of),
            keep: args.get("keep")?.unwrap_or(self.keep),
            every: args.get("every")?.unwrap_or(self.every),
            reject: args.get("reject")?.unwrap_or(self.reject),
            temperature: args.get("temperature")?.unwrap_or(self.temperature),
        };
        asked.check().map_err(|why| format!("policy.args.{why}"))
    }

    pub(crate) fn check(self) -> Result<Self, String> {
        if !(1..=256).contains(&self.best_of) {
            return Err("best_of must be between 1 and 256".into());
        }
        if !(1..=self.best_of).contains(&self.keep) {
            return Err("keep must be between 1 and best_of".into());
        }
        if self.every == 0 {
            return Err("every must be at least 1".into());
        }
        if !(0.0..=1.0).contains(&self.reject) {
            return Err("reject must be between 0 and 1".into());
        }
        if !(self.temperature > 0.0 && self.temperature <= 100.0) {
            return Err("temperature must be above 0 and at most 100".into());
        }
        Ok(self)
    }
}
