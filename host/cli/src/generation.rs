//! A model's own sampling settings: `generation_config.json`.

use anyhow::{Context, Result};
use std::path::Path;
use tokenmill_http::Defaults;
use tokenmill_policy::Params;

/// A missing file means no settings; a broken one is an error.
pub(crate) fn defaults(dir: &Path) -> Result<Defaults> {
    let file = dir.join("generation_config.json");
    if !file.exists() {
        return Ok(Defaults::default());
    }
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let config = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()))?;
    Ok(Defaults::from_generation_config(&config))
}

pub(crate) fn params(defaults: &Defaults) -> Params {
    let off = Params::default();
    Params {
        temperature: defaults.temperature.unwrap_or(off.temperature),
        top_p: defaults.top_p.unwrap_or(off.top_p),
        top_k: defaults.top_k.unwrap_or(off.top_k),
        min_p: defaults.min_p.unwrap_or(off.min_p),
        repetition: defaults.repetition_penalty.unwrap_or(off.repetition),
        ..off
    }
}
