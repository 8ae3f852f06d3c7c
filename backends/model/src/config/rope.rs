//! Rotation parameters of a configuration, in both spellings.

use super::fields::Fields;
use crate::error::Error;

/// How one group of layers rotates. `crate::rope` holds the formulas.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    pub theta: f64,
    /// Dimensions of a head that rotate: even.
    pub rotary: usize,
    /// Positions the rotation was made for, scaling included.
    pub max_context: usize,
    pub scaling: Scaling,
}

/// The kinds of `rope_type`. `original` counts the positions before scaling.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    None,
    Linear { factor: f64 },
    Dynamic { factor: f64, original: usize },
    Yarn { factor: f64, original: usize, attention: f64, beta_fast: f64, beta_slow: f64, truncate: bool },
    Llama3 { factor: f64, original: usize, low: f64, high: f64 },
    LongRope { original: usize, attention: f64, short: Vec<f64>, long: Vec<f64> },
}

const THETA: std::ops::RangeInclusive<f64> = 1.0..=1e12;
const FACTOR: std::ops::RangeInclusive<f64> = 1.0..=1e4;

impl RopeConfig {
    /// The rotation of a model whose layers all rotate alike.
    pub(super) fn read(f: &Fields, head_dim: usize) -> Result<Self, Error> {
        match f.object("rope_parameters")? {
            // Keyed by layer type: the caller asks for each with `for_layers`.
            Some(by_type) if by_type.has("full_attention") => {
                Self::for_layers(f, head_dim, "full_attention", None)
            }
            Some(parameters) => Self::from_parts(f, Some(&parameters), &parameters, "rope_theta", head_dim),
            None => Self::from_parts(f, f.object("rope_scaling")?.as_ref(), f, "rope_theta", head_dim),
        }
    }

    /// The rotation of one layer type. `local_theta` names the top-level key that holds the base of
    /// layers that rotate unscaled, in the older spelling.
    pub(super) fn for_layers(
        f: &Fields,
        head_dim: usize,
        kind: &str,
        local_theta: Option<&str>,
    ) -> Result<Self, Error> {
        if let Some(parameters) = f.object("rope_parameters")? {
            let own = parameters
                .object(kind)?
                .ok_or_else(|| f.error("rope_parameters", format!("lacks {kind}")))?;
            return Self::from_parts(f, Some(&own), &own, "rope_theta", head_dim);
        }
        match local_theta {
            Some(key) => Self::from_parts(f, None, f, key, head_dim),
            None => {
                let mut rope =
                    Self::from_parts(f, f.object("rope_scaling")?.as_ref(), f, "rope_theta", head_dim)?;
                if !f.has("rope_theta") {
                    rope.theta = 1e6;
                }
                Ok(rope)
            }
        }
    }

    fn from_parts(
        f: &Fields,
        scaling: Option<&Fields>,
        theta_in: &Fields,
        theta_key: &str,
        head_dim: usize,
    ) -> Result<Self, Error> {
        let theta = theta_in.float_opt(theta_key, THETA)?.unwrap_or(10_000.0);
        let partial =
            match scaling.map(|s| s.float_opt("partial_rotary_factor", 1e-6..=1.0)).transpose()?.flatten() {
                Some(partial) => partial,
                None => f.float_opt("partial_rotary_factor", 1e-6..=1.0)?.unwrap_or(1.0),
            };
        let rotary = (head_dim as f64 * partial) as usize;
        if rotary == 0 || !rotary.is_multiple_of(2) {
            return Err(f.error(
                "head_dim",
                format!("{head_dim} gives {rotary} rotating dimensions, which is not an even number"),
            ));
        }
        let positions = f.count("max_position_embeddings", 1..=1 << 24)?;
        let (scaling, max_context) = match scaling {
            Some(s) => read_scaling(f, s, positions, rotary)?,
            None => (Scaling::None, positions),
        };
        Ok(Self { theta, rotary, max_context, scaling })
    }
}

/// The scaling, and the positions that it makes usable.
fn read_scaling(f: &Fields, s: &Fields, positions: usize, rotary: usize) -> Result<(Scaling, usize), Error> {
    let kind = match s.text("rope_type")? {
        Some(kind) => kind,
        None => s.text("type")?.ok_or_else(|| s.error("rope_type", "is missing"))?,
    };
    let own = s.count_opt("original_max_position_embeddings", 1..=1 << 24)?;
    let original = match own {
        Some(original) => original,
        None => f.count_opt("original_max_position_embeddings", 1..=1 << 24)?.unwrap_or(positions),
    };
    let stretched = |base: usize, factor: f64| ((base as f64 * factor) as usize).max(positions);
    Ok(match kind {
        "default" => (Scaling::None, positions),
        "linear" => {
            let factor = s.float("factor", FACTOR)?;
            (Scaling::Linear { factor }, stretched(positions, factor))
        }
        "dynamic" => {
            let factor = s.float("factor", FACTOR)?;
            (Scaling::Dynamic { factor, original: positions }, stretched(positions, factor))
        }
        "yarn" => {
            let factor = s.float("factor", FACTOR)?;
            (yarn(s, factor, original)?, stretched(original, factor))
        }
        "llama3" => (llama3(s, original)?, positions),
        "longrope" | "su" => (longrope(s, original, positions, rotary)?, positions),
        other => {
            return Err(Error::Unsupported(format!("config.json: rope_type {other:?} is not supported")));
        }
    })
}

/// Attention factor of YaRN: given, or by `mscale` (DeepSeek), or `0.1 ln(factor) + 1`.
fn yarn(s: &Fields, factor: f64, original: usize) -> Result<Scaling, Error> {
    let mscale = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
    let given = s.float_opt("attention_factor", 1e-6..=1e6)?;
    let attention =
        match (given, s.float_opt("mscale", 0.0..=1e6)?, s.float_opt("mscale_all_dim", 0.0..=1e6)?) {
            (Some(given), ..) => given,
            (None, Some(m), Some(all)) if m > 0.0 && all > 0.0 => mscale(m) / mscale(all),
            _ => mscale(1.0),
        };
    Ok(Scaling::Yarn {
        factor,
        original,
        attention,
        beta_fast: s.float_opt("beta_fast", 1e-6..=1e6)?.unwrap_or(32.0),
        beta_slow: s.float_opt("beta_slow", 1e-6..=1e6)?.unwrap_or(1.0),
        truncate: s.flag("truncate", true)?,
    })
}

fn llama3(s: &Fields, original: usize) -> Result<Scaling, Error> {
    let low = s.float("low_freq_factor", 1e-6..=1e6)?;
    let high = s.float("high_freq_factor", 1e-6..=1e6)?;
    if high <= low {
        return Err(s.error("high_freq_factor", format!("{high} is not above low_freq_factor {low}")));
    }
    Ok(Scaling::Llama3 { factor: s.float("factor", FACTOR)?, original, low, high })
}

/// Attention factor of longrope: given, or `sqrt(1 + ln(factor) / ln(original))`.
fn longrope(s: &Fields, original: usize, positions: usize, rotary: usize) -> Result<Scaling, Error> {
    let factor = match s.float_opt("factor", FACTOR)? {
        Some(factor) => factor,
        None => positions as f64 / original as f64,
    };
    let attention = match s.float_opt("attention_factor", 1e-6..=1e6)? {
        Some(given) => given,
        None if factor <= 1.0 || original < 2 => 1.0,
        None => (1.0 + factor.ln() / (original as f64).ln()).sqrt(),
    };
    let short = s.floats("short_factor", rotary / 2, 1e-6..=1e6)?;
    let long = s.floats("long_factor", rotary / 2, 1e-6..=1e6)?;
    Ok(Scaling::LongRope { original, attention, short, long })
}
