//! Sampling of one row, by a full sort. The order of operations stands in `tokenmill.h` at `tm_row`.

use tokenmill_backend_model::device::RowSampling;

/// Logits after bias, mask and penalties: what temperature and the filters work on.
pub fn adjust(logits: &[f32], row: &RowSampling<'_>) -> Vec<f32> {
    let mut l = logits.to_vec();
    for (&t, &b) in row.bias_token.iter().zip(row.bias_value) {
        l[t as usize] += b;
    }
    if !row.mask.is_empty() {
        for (t, l) in l.iter_mut().enumerate() {
            if row.mask[t / 32] >> (t % 32) & 1 == 0 {
                *l = f32::NEG_INFINITY;
            }
        }
    }
    for (&t, &count) in row.seen_token.iter().zip(row.seen_count) {
        let l = &mut l[t as usize];
        *l = if *l > 0.0 { *l / row.repetition } else { *l * row.repetition };
        *l -= row.frequency * count as f32 + if count > 0 { row.presence } else { 0.0 };
    }
    l
}

/// Probabilities to draw from: 0 for what the filters drop. Empty if no logit is finite.
pub fn probabilities(logits: &[f32], row: &RowSampling<'_>) -> Vec<f64> {
    let l: Vec<f64> =
        adjust(logits, row).iter().map(|&l| f64::from(l) / f64::from(row.temperature)).collect();
    let mut order: Vec<usize> = (0..l.len()).filter(|&t| l[t] > f64::NEG_INFINITY).collect();
    order.sort_by(|&a, &b| l[b].total_cmp(&l[a]).then(a.cmp(&b)));
    if row.top_k > 0 && order.len() > row.top_k as usize {
        let least = l[order[row.top_k as usize - 1]];
        order.retain(|&t| l[t] >= least);
    }
    let Some(&first) = order.first() else { return Vec::new() };
    let weight = |t: usize| (l[t] - l[first]).exp();
    let total: f64 = order.iter().map(|&t| weight(t)).sum();
    let mut sum = 0.0;
    let mut kept = 0;
    while kept < order.len() && (kept == 0 || sum < f64::from(row.top_p) || row.top_p >= 1.0) {
        sum += weight(order[kept]) / total;
        kept += 1;
    }
    order.truncate(kept);
    order.retain(|&t| weight(t) >= f64::from(row.min_p));
    let total: f64 = order.iter().map(|&t| weight(t)).sum();
    let mut p = vec![0.0; l.len()];
    for t in order {
        p[t] = weight(t) / total;
    }
    p
}

/// Where in [0, 1) the draw of `seed` falls: one step of Vigna's splitmix64, its top 24 bits.
pub fn uniform(seed: u64) -> f64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 40) as f64 / (1u64 << 24) as f64
}

/// The token drawn, or -1 where no logit is finite.
pub fn sample(logits: &[f32], row: &RowSampling<'_>) -> i32 {
    if let Some(token) = row.forced {
        return token as i32;
    }
    if row.temperature == 0.0 {
        return argmax(&adjust(logits, row));
    }
    let p = probabilities(logits, row);
    let u = uniform(row.seed);
    let mut sum = 0.0;
    let mut last = -1;
    for (t, p) in p.iter().enumerate().filter(|(_, p)| **p > 0.0) {
        sum += p;
        last = t as i32;
        if sum > u {
            break;
        }
    }
    last
}

/// Index of the largest value, the lower on a tie; -1 if nothing is above -inf.
pub fn argmax(x: &[f32]) -> i32 {
    let mut best = (-1, f32::NEG_INFINITY);
    for (i, &v) in x.iter().enumerate() {
        if v > best.1 {
            best = (i as i32, v);
        }
    }
    best.0
}

/// `log(softmax(logits))` at `token`.
pub fn log_probability(logits: &[f32], token: usize) -> f32 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from(l - largest).exp()).sum();
    (f64::from(logits[token]) - f64::from(largest) - sum.ln()) as f32
}
