//! What a request asks for.

use std::str::FromStr;

use tokenmill_plugin_common::Args;

#[derive(Clone, Copy, Debug, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) width: u32,
    pub(crate) length_penalty: f64,
    pub(crate) early_stopping: Stopping,
}

impl Default for Settings {
    fn default() -> Self {
        Self { width: 4, length_penalty: 1.0, early_stopping: Stopping::Likely }
    }
}

/// When a search ends. Whatever it is, it also ends where the text must.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "Spelled")]
pub enum Stopping {
    /// `false`: when `width` texts have finished and the best beam, were it to finish now, is no better
    /// than the worst of them.
    Likely,
    /// `true`: as soon as `width` texts have finished.
    Full,
    /// `"never"`: when no beam can get better than the worst finished text, whatever its length becomes.
    Sure,
}

impl FromStr for Stopping {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "false" => Ok(Self::Likely),
            "true" => Ok(Self::Full),
            "never" => Ok(Self::Sure),
            _ => Err(()),
        }
    }
}

/// As in a configuration.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Spelled {
    Flag(bool),
    Text(String),
}

impl TryFrom<Spelled> for Stopping {
    type Error = &'static str;

    fn try_from(spelled: Spelled) -> Result<Self, &'static str> {
        match spelled {
            Spelled::Flag(true) => Ok(Self::Full),
            Spelled::Flag(false) => Ok(Self::Likely),
            Spelled::Text(text) => {
                text.parse().map_err(|()| "early_stopping must be true, false or \"never\"")
            }
        }
    }
}

impl Settings {
    pub(crate) fn of(self, args: Args) -> Result<Self, String> {
        let asked = Self {
            width: args.get("width")?.unwrap_or(self.width),
            length_penalty: args.get("length_penalty")?.unwrap_or(self.length_penalty),
            early_stopping: args.get("early_stopping")?.unwrap_or(self.early_stopping),
        };
        asked.check().map_err(|why| format!("policy.args.{why}"))
    }

    pub(crate) fn check(self) -> Result<Self, String> {
        if !(1..=64).contains(&self.width) {
            return Err("width must be between 1 and 64".into());
        }
        if !(-10.0..=10.0).contains(&self.length_penalty) {
            return Err("length_penalty must be between -10 and 10".into());
        }
        Ok(self)
    }
}
