//! Ranks and sums without sorting.

use super::scan::GROUP;

/// The k-th largest of `logits` (1-based, `k <= logits.len()`); `maxima` are those of its groups.
///
/// Each of the k largest maxima is a logit, so the k-th of them bounds the answer from below and few logits reach it.
pub(super) fn kth_largest(logits: &[f32], maxima: &[f32], k: usize, values: &mut Vec<f32>) -> f32 {
    let bound = if k <= maxima.len() {
        values.clear();
        values.extend_from_slice(maxima);
        nth(values, k)
    } else {
        f32::NEG_INFINITY
    };
    values.clear();
    gather(logits, maxima, bound, |_, l| values.push(l));
    nth(values, k)
}

fn nth(values: &mut [f32], k: usize) -> f32 {
    *values.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
}

/// Calls `f(id, logit)` for every logit of at least `least`, in id order.
pub(super) fn gather(logits: &[f32], maxima: &[f32], least: f32, mut f: impl FnMut(u32, f32)) {
    for (group, (logits, &most)) in logits.chunks(GROUP).zip(maxima).enumerate() {
        if most >= least {
            for (i, &l) in logits.iter().enumerate() {
                if l >= least {
                    f((group * GROUP + i) as u32, l);
                }
            }
        }
    }
}

/// Of `weights`, the smallest set of the largest whose sum reaches `sum`: its least weight, and how many weights equal
/// to that one it holds. All of them if no set reaches it. Reorders `weights`, which must not be empty.
pub(crate) fn nucleus(weights: &mut [f32], mut sum: f64) -> (f32, usize) {
    // Everything before `taken` is in the set, everything from `end` on is not.
    let (mut taken, mut end) = (0, weights.len());
    loop {
        let open = &mut weights[taken..end];
        let first = open[0];
        if open.iter().all(|w| *w == first) {
            let count = if first > 0.0 { (sum / f64::from(first)).ceil() as usize } else { open.len() };
            let size = taken + count.clamp(1, open.len());
            let above = weights.iter().filter(|w| **w > first).count();
            return (first, size - above);
        }
        let middle = open.len() / 2;
        open.select_nth_unstable_by(middle, |a, b| b.total_cmp(a));
        let upper: f64 = open[..middle].iter().map(|&w| f64::from(w)).sum();
        if upper >= sum {
            end = taken + middle;
        } else {
            sum -= upper;
            taken += middle;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_kth_largest_is_that_of_a_sort(
            logits in prop::collection::vec(prop_oneof![(-5i8..5).prop_map(f32::from), -9f32..9.0], 1..500),
            pick in 0usize..500,
        ) {
            let k = 1 + pick % logits.len();
            let maxima: Vec<f32> =
                logits.chunks(GROUP).map(|g| g.iter().copied().fold(f32::NEG_INFINITY, f32::max)).collect();
            let mut sorted = logits.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            prop_assert_eq!(kth_largest(&logits, &maxima, k, &mut Vec::new()), sorted[k - 1]);
        }

        #[test]
        fn the_nucleus_is_that_of_a_sort(weights in prop::collection::vec(0u8..20, 1..200), part in 0f64..1.1) {
            // Integers, so that every order of summing gives the same sum.
            let mut weights: Vec<f32> = weights.into_iter().map(f32::from).collect();
            let mut sorted = weights.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            let sum = (part * sorted.iter().map(|&w| f64::from(w)).sum::<f64>()).round();
            let mut have = 0.0;
            let reached = sorted.iter().position(|&w| { have += f64::from(w); have >= sum });
            let (least, ties) = nucleus(&mut weights, sum);
            let size = sorted.iter().filter(|&&w| w > least).count() + ties;
            // Zeros at the end may be in or out: they add nothing.
            let expected = reached.map_or(sorted.len(), |i| i + 1);
            prop_assert!(size == expected || sorted[size.min(expected)..size.max(expected)].iter().all(|w| *w == 0.0));
        }
    }
}
