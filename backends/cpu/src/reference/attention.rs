//! Attention of one query head.

/// `softmax(cap(scale * query·keys)) · values` into `out`; both lists hold what the query may see.
pub fn attention(
    query: &[f32],
    keys: &[&[f32]],
    values: &[&[f32]],
    scale: f32,
    softcap: Option<f32>,
    out: &mut [f32],
) {
    let scores: Vec<f64> = keys
        .iter()
        .map(|key| {
            let dot: f64 = query.iter().zip(*key).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            let score = dot * f64::from(scale);
            softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
        })
        .collect();
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
    let total: f64 = weights.iter().sum();
    for (d, o) in out.iter_mut().enumerate() {
        let sum: f64 = weights.iter().zip(values).map(|(w, value)| w * f64::from(value[d])).sum();
        *o = (sum / total) as f32;
    }
}
