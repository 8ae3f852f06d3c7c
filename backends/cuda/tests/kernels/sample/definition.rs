//! What sampling is defined to be.

use tokenmill_backend_model::device::RowSampling;

/// Logits after bias, mask and penalties, in f32 as defined, so that ties are ties here too.
pub(super) fn adjusted(logits: &[f32], row: &RowSampling<'_>) -> Vec<f32> {
    let mut l = logits.to_vec();
    for (token, bias) in row.bias_token.iter().zip(row.bias_value) {
        l[*token as usize] += bias;
    }
    for (token, l) in l.iter_mut().enumerate() {
        if !row.mask.is_empty() && (row.mask[token / 32] >> (token % 32)) & 1 == 0 {
            *l = f32::NEG_INFINITY;
        }
    }
    for (token, count) in row.seen_token.iter().zip(row.seen_count) {
        let l = &mut l[*token as usize];
        *l = if *l > 0.0 { *l / row.repetition } else { *l * row.repetition };
        *l -= row.frequency * *count as f32 + if *count > 0 { row.presence } else { 0.0 };
    }
    l
}

/// The first of the largest; -1 if all are -inf.
pub(super) fn greedy(adjusted: &[f32]) -> i32 {
    let mut best = (-1, f32::NEG_INFINITY);
    for (token, l) in adjusted.iter().enumerate() {
        if *l > best.1 {
            best = (token as i32, *l);
        }
    }
    best.0
}

/// Probabilities of a draw, 0 for what the filters drop.
pub(super) fn probabilities(adjusted: &[f32], row: &RowSampling<'_>) -> Vec<f64> {
    let l = |token: usize| f64::from(adjusted[token]) / f64::from(row.temperature);
    let mut order: Vec<usize> = (0..adjusted.len()).filter(|t| adjusted[*t] > f32::NEG_INFINITY).collect();
    order.sort_by(|a, b| l(*b).partial_cmp(&l(*a)).unwrap().then(a.cmp(b)));
    if row.top_k > 0 && order.len() > row.top_k as usize {
        let least = l(order[row.top_k as usize - 1]);
        order.retain(|token| l(*token) >= least);
    }
    let first = order[0];
    let weight = |token: usize| (l(token) - l(first)).exp();
    if row.top_p < 1.0 {
        let target = f64::from(row.top_p) * order.iter().map(|t| weight(*t)).sum::<f64>();
        let mut sum = 0.0;
        let kept = order.iter().position(|token| {
            sum += weight(*token);
            sum >= target
        });
        order.truncate(kept.map_or(order.len(), |last| last + 1));
    }
    order.retain(|token| weight(*token) >= f64::from(row.min_p));
    let total: f64 = order.iter().map(|t| weight(*t)).sum();
    let mut p = vec![0.0; adjusted.len()];
    order.into_iter().for_each(|token| p[token] = weight(token) / total);
    p
}

/// One step of Vigna's splitmix64 from `seed`, its top 24 bits as a part of 1.
pub(super) fn uniform(seed: u64) -> f64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 40) as f64 / f64::from(1 << 24)
}

/// `log(softmax(logits))` at `token`.
pub(super) fn log_probability(logits: &[f32], token: usize) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|l| (f64::from(*l) - largest).exp()).sum();
    f64::from(logits[token]) - largest - sum.ln()
}

/// That results are as defined: of every row its token, and the token's log-probability.
pub(super) fn check(vocab: usize, logits: &[f32], rows: &[RowSampling<'_>], got: &(Vec<i32>, Vec<f32>)) {
    assert_eq!((got.0.len(), got.1.len()), (rows.len(), rows.len()));
    for (i, (row, logits)) in rows.iter().zip(logits.chunks(vocab)).enumerate() {
        let (token, logprob) = (got.0[i], f64::from(got.1[i]));
        let what = format!("row {i} of {vocab} logits gave {token}: {}", parameters(row));
        let Ok(at) = usize::try_from(token) else { panic!("{what}") };
        let adjusted = adjusted(logits, row);
        if let Some(forced) = row.forced {
            assert_eq!(at, forced as usize, "{what}");
        } else if row.temperature == 0.0 {
            assert_eq!(token, greedy(&adjusted), "{what}");
        } else {
            let p = probabilities(&adjusted, row);
            let (u, below) = (uniform(row.seed), p[..at].iter().sum::<f64>());
            assert!(p[at] > 0.0, "{what}, which is filtered out");
            assert!(below - 1e-5 <= u && u <= below + p[at] + 1e-5, "{what}: u = {u}, {below} + {}", p[at]);
        }
        let want = log_probability(logits, at);
        assert!((logprob - want).abs() <= 1e-5 * want.abs().max(1.0), "{what}: {logprob}, not {want}");
    }
}

/// A row without its lists.
fn parameters(row: &RowSampling<'_>) -> String {
    let none =
        RowSampling { bias_token: &[], bias_value: &[], seen_token: &[], seen_count: &[], mask: &[], ..*row };
    format!("{none:?}")
}
