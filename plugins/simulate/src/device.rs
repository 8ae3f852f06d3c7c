//! What the device does with a row of logits.

use tokenmill_policy::Error;
use tokenmill_policy::sample::{Knobs, Logits};

/// The parameters of one row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turned {
    pub(crate) temperature: f32,
    pub(crate) top_k: u32,
    pub(crate) top_p: f32,
    pub(crate) min_p: f32,
}

/// Rows of raw logits, as `pick` sees them; also of use alone.
#[derive(Clone, Debug, Default)]
pub struct Row(pub Vec<Vec<f32>>);

impl Logits for Row {
    fn vocab(&self) -> u32 {
        self.0[0].len() as u32
    }

    fn top_k(&mut self, row: u32, k: u32) -> Result<(Vec<u32>, Vec<f32>), Error> {
        let sorted = sorted(&self.0[row as usize]);
        Ok(sorted.into_iter().take(k as usize).unzip())
    }

    fn read(&mut self, row: u32) -> Result<&[f32], Error> {
        Ok(&self.0[row as usize])
    }
}

/// Tokens with their log-probabilities, most likely first, equal ones by id.
pub(crate) fn sorted(logits: &[f32]) -> Vec<(u32, f32)> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
    let logprob = |logit: f32| (f64::from(logit - max) - sum.ln()) as f32;
    let mut all: Vec<(u32, f32)> = (0..).zip(logits.iter().map(|&logit| logprob(logit))).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all
}

/// The token that the device samples from a row with its knobs.
pub(crate) fn sample(row: u32, logits: &[f32], turned: Turned, knobs: &Knobs, seed: u64) -> u32 {
    let mut logits = logits.to_vec();
    for (_, token, value) in knobs.bias.iter().filter(|bias| bias.0 == row) {
        logits[*token as usize] += value;
    }
    if let Some((_, mask)) = knobs.allow.iter().find(|allow| allow.0 == row) {
        let allowed = |token: usize| mask[token / 32] >> (token % 32) & 1 == 1;
        (0..logits.len())
            .filter(|&token| !allowed(token))
            .for_each(|token| logits[token] = f32::NEG_INFINITY);
    }
    let of =
        |all: &[(u32, f32)], otherwise| all.iter().find(|one| one.0 == row).map_or(otherwise, |one| one.1);
    let temperature = of(&knobs.temperature, turned.temperature);
    if temperature == 0.0 {
        return sorted(&logits)[0].0;
    }
    logits.iter_mut().for_each(|logit| *logit /= temperature);
    let mut kept = sorted(&logits);
    let top_k = knobs.top_k.iter().find(|one| one.0 == row).map_or(turned.top_k, |one| one.1);
    if top_k > 0 {
        kept.truncate(top_k as usize);
    }
    let (top_p, min_p) = (of(&knobs.top_p, turned.top_p), of(&knobs.min_p, turned.min_p));
    let least = kept[0].1 + min_p.ln();
    kept.retain(|one| one.1 >= least);
    let total: f64 = kept.iter().map(|one| f64::from(one.1).exp()).sum();
    let mut before = 0.0;
    kept.retain(|one| {
        let keep = top_p >= 1.0 || before < f64::from(top_p) * total;
        before += f64::from(one.1).exp();
        keep
    });
    draw(&kept, seed)
}

/// Draws by weight, with a number made of the seed by a linear congruential step (Knuth's MMIX).
fn draw(kept: &[(u32, f32)], seed: u64) -> u32 {
    let mixed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let total: f64 = kept.iter().map(|one| f64::from(one.1).exp()).sum();
    let mut left = (mixed >> 11) as f64 / (1u64 << 53) as f64 * total;
    for &(token, logprob) in kept {
        left -= f64::from(logprob).exp();
        if left < 0.0 {
            return token;
        }
    }
    kept[kept.len() - 1].0
}
