//! Rotary position tables (RoFormer, arXiv 2104.09864) with the scalings that checkpoints use.
//!
//! One fixed table serves every sequence, so that cached keys, chunks and prefix hits agree. Two
//! scalings depend on the length of the text in the reference implementation: `dynamic` and
//! `longrope`. Their table is the one the reference uses for a text of `context` tokens.

use std::f64::consts::TAU;

use crate::config::{RopeConfig, Scaling};

/// Angles per position, and what cosines and sines are multiplied by.
#[derive(Clone, Debug, PartialEq)]
pub struct Frequencies {
    /// `rotary / 2` of them.
    pub inverse: Vec<f64>,
    pub attention: f64,
}

/// Cosines and sines, row-major `[positions, half]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
    pub half: usize,
}

impl RopeConfig {
    /// Frequencies for texts of up to `context` tokens.
    pub fn frequencies(&self, context: usize) -> Frequencies {
        let plain = |theta: f64| powers(theta, self.rotary);
        match &self.scaling {
            Scaling::None => Frequencies { inverse: plain(self.theta), attention: 1.0 },
            Scaling::Linear { factor } => {
                let inverse = plain(self.theta).iter().map(|f| f / factor).collect();
                Frequencies { inverse, attention: 1.0 }
            }
            Scaling::Dynamic { factor, original } => {
                let theta = dynamic_theta(self.theta, self.rotary, *factor, *original, context);
                Frequencies { inverse: plain(theta), attention: 1.0 }
            }
            Scaling::Yarn { factor, attention, .. } => {
                let keep = self.yarn_kept();
                let mix = |(f, keep): (&f64, f64)| f / factor * (1.0 - keep) + f * keep;
                let inverse = plain(self.theta).iter().zip(keep).map(mix).collect();
                Frequencies { inverse, attention: *attention }
            }
            Scaling::Llama3 { factor, original, low, high } => {
                let scale = |f: &f64| llama3(*f, *factor, *original as f64, *low, *high);
                Frequencies { inverse: plain(self.theta).iter().map(scale).collect(), attention: 1.0 }
            }
            Scaling::LongRope { original, attention, short, long } => {
                let factors = if context > *original { long } else { short };
                let inverse = plain(self.theta).iter().zip(factors).map(|(f, by)| f / by).collect();
                Frequencies { inverse, attention: *attention }
            }
        }
    }

    /// The table of positions `0..context`.
    pub fn table(&self, context: usize) -> Table {
        let Frequencies { inverse, attention } = self.frequencies(context);
        let half = inverse.len();
        let mut table =
            Table { cos: Vec::with_capacity(context * half), sin: Vec::with_capacity(context * half), half };
        for position in 0..context {
            for frequency in &inverse {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                table.cos.push((cos * attention) as f32);
                table.sin.push((sin * attention) as f32);
            }
        }
        table
    }

    /// YaRN (arXiv 2309.00071): how much of each unscaled frequency is kept, 1 to 0.
    fn yarn_kept(&self) -> Vec<f64> {
        let Scaling::Yarn { original, beta_fast, beta_slow, truncate, .. } = self.scaling else {
            return Vec::new();
        };
        let dim = self.rotary as f64;
        let dimension = |turns: f64| dim * (original as f64 / (turns * TAU)).ln() / (2.0 * self.theta.ln());
        let (mut low, mut high) = (dimension(beta_fast), dimension(beta_slow));
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high {
            high += 0.001;
        }
        (0..self.rotary / 2).map(|i| 1.0 - ((i as f64 - low) / (high - low)).clamp(0.0, 1.0)).collect()
    }
}

/// `theta^(-2i / rotary)`
fn powers(theta: f64, rotary: usize) -> Vec<f64> {
    (0..rotary / 2).map(|i| theta.powf(-2.0 * i as f64 / rotary as f64)).collect()
}

/// NTK-aware growth of the base with the length of the text.
fn dynamic_theta(theta: f64, rotary: usize, factor: f64, original: usize, context: usize) -> f64 {
    let stretch = context.max(original) as f64 / original as f64;
    let exponent = rotary as f64 / (rotary as f64 - 2.0).max(1.0);
    theta * (factor * stretch - (factor - 1.0)).powf(exponent)
}

/// Llama 3.1: long waves are slowed by `factor`, short ones kept, those between blended.
fn llama3(frequency: f64, factor: f64, original: f64, low: f64, high: f64) -> f64 {
    let wave = TAU / frequency;
    if wave > original / low {
        frequency / factor
    } else if wave < original / high {
        frequency
    } else {
        let smooth = (original / wave - low) / (high - low);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}
