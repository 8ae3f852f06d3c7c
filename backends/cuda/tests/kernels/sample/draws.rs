//! Temperature, top_k, top_p, min_p and the draw.

use tokenmill_backend_model::device::RowSampling;

use super::definition::{check, probabilities};
use super::{sampled, some_logits};
use crate::support::{Random, gpu};

/// `rows` on the same logits.
fn check_on(logits: &[f32], rows: &[RowSampling<'_>]) {
    let all = logits.repeat(rows.len());
    let got = sampled(&gpu(), logits.len(), &all, rows);
    check(logits.len(), &all, rows, &got);
}

/// Parameters that look random, all of them in use somewhere.
fn shaped(i: u64) -> RowSampling<'static> {
    RowSampling {
        seed: i.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ i,
        temperature: [0.5, 1.0, 1.7, 4.0, 0.02, 60.0][(i % 6) as usize],
        top_k: [0, 1, 3, 20, 1_000_000][(i % 5) as usize],
        top_p: [1.0, 0.9, 0.5, 0.05, 0.999, 0.7, 1.0][(i % 7) as usize],
        min_p: [0.0, 0.0, 0.05, 0.5][(i / 4 % 4) as usize],
        ..RowSampling::PLAIN
    }
}

#[test]
fn draws_lie_where_cumulative_probabilities_put_them() {
    for (vocab, n) in [(1, 3), (2, 10), (5, 40), (33, 60), (1000, 60), (8192, 20), (8193, 20), (20_003, 30)] {
        let rows: Vec<_> = (0..n).map(|i| shaped(i + vocab as u64)).collect();
        let logits = some_logits(vocab as u64, vocab * rows.len(), 4.0);
        check(vocab, &logits, &rows, &sampled(&gpu(), vocab, &logits, &rows));
    }
}

#[test]
fn temperature_alone_draws_from_everything() {
    let rows: Vec<_> = (0..24)
        .map(|seed| RowSampling {
            seed,
            temperature: [0.7, 1.0, 3.0][seed as usize % 3],
            ..RowSampling::PLAIN
        })
        .collect();
    check_on(&some_logits(1, 17_001, 3.0), &rows);
}

#[test]
fn a_vocabulary_as_large_as_models_have_is_no_different() {
    let rows = [
        RowSampling { temperature: 0.0, ..RowSampling::PLAIN },
        RowSampling { seed: 1, ..RowSampling::PLAIN },
        RowSampling { seed: 2, top_k: 50, top_p: 0.9, ..RowSampling::PLAIN },
        RowSampling { seed: 3, temperature: 1.5, top_p: 0.95, ..RowSampling::PLAIN },
        RowSampling { seed: 4, min_p: 0.05, ..RowSampling::PLAIN },
    ];
    check_on(&some_logits(5, 262_144, 5.0), &rows);
}

#[test]
fn seeds_at_the_ends_of_their_range_draw_as_others_do() {
    let seeds = (0..8).chain(u64::MAX - 8..=u64::MAX);
    let rows: Vec<_> =
        seeds.map(|seed| RowSampling { seed, temperature: 3.0, ..RowSampling::PLAIN }).collect();
    check_on(&some_logits(2, 300, 1.0), &rows);
}

#[test]
fn many_draws_take_each_token_as_often_as_it_is_probable() {
    let logits: Vec<f32> = (0..20).map(|i| (i as f32 * 0.7).sin()).collect();
    let rows: Vec<_> = (0..256).map(|seed| RowSampling { seed, ..RowSampling::PLAIN }).collect();
    let (tokens, _) = sampled(&gpu(), 20, &logits.repeat(rows.len()), &rows);
    let mut counts = [0.0; 20];
    tokens.iter().for_each(|token| counts[*token as usize] += 1.0);
    let p = probabilities(&logits, &RowSampling::PLAIN);
    let chi: f64 = counts.iter().zip(&p).map(|(n, p)| (n - p * 256.0).powi(2) / (p * 256.0)).sum();
    // 19 degrees of freedom: 43.8 is exceeded once in a thousand; the seeds are fixed.
    assert!(chi < 43.8, "{chi}");
}

#[test]
fn top_k_keeps_every_tie_of_the_kth() {
    let mut logits = vec![0.0; 50];
    for token in [3, 9, 17, 21, 30] {
        logits[token] = 2.0;
    }
    logits[40] = 2.5;
    let rows: Vec<_> =
        (0..60).map(|seed| RowSampling { seed, top_k: 1 + seed as u32 % 8, ..RowSampling::PLAIN }).collect();
    check_on(&logits, &rows);
    let of_two: Vec<i32> =
        sampled(&gpu(), 50, &logits.repeat(60), &[RowSampling { top_k: 2, ..RowSampling::PLAIN }; 60]).0;
    assert!(of_two.iter().all(|token| [3, 9, 17, 21, 30, 40].contains(token)));
}

#[test]
fn top_p_keeps_the_lowest_ids_of_a_tie() {
    // Ten of equal probability, in two pieces of the vocabulary, and a better one behind them: with seven of the ten it
    // is what is kept.
    let mut logits = vec![f32::NEG_INFINITY; 9000];
    let tied = [5, 6, 100, 8000, 8191, 8192, 8193, 8500, 8997, 8998];
    tied.iter().for_each(|token| logits[*token] = 1.0);
    logits[8999] = 2.0;
    let rows: Vec<_> = (0..60).map(|seed| RowSampling { seed, top_p: 0.75, ..RowSampling::PLAIN }).collect();
    let all = logits.repeat(rows.len());
    let got = sampled(&gpu(), 9000, &all, &rows);
    check(9000, &all, &rows, &got);
    let drawn: std::collections::BTreeSet<usize> = got.0.iter().map(|token| *token as usize).collect();
    assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [&tied[..7], &[8999]].concat());
}

#[test]
fn a_top_p_of_nothing_keeps_one_token() {
    let rows: Vec<_> =
        [0.0, 1e-30].map(|top_p| RowSampling { seed: 9, top_p, ..RowSampling::PLAIN }).to_vec();
    check_on(&[1.0, 3.0, 2.0, 3.0], &rows);
    assert_eq!(sampled(&gpu(), 4, &[1.0, 3.0, 2.0, 3.0, 3.0, 3.0, 3.0, 3.0], &rows).0, [1, 0]);
}

#[test]
fn more_candidates_than_a_list_holds_are_no_different() {
    // Flat: thousands of tokens are needed for any of these.
    let mut rows = Vec::new();
    for seed in 0..4 {
        let flat = RowSampling { seed, temperature: 50.0, ..RowSampling::PLAIN };
        rows.extend([
            RowSampling { top_p: 0.97, ..flat },
            RowSampling { top_k: 9000, ..flat },
            RowSampling { top_k: 6000, top_p: 0.8, ..flat },
            RowSampling { top_p: 0.6, min_p: 0.95, ..flat },
        ]);
    }
    check_on(&some_logits(3, 12_001, 4.0), &rows);
    // All alike: the ties alone are more.
    check_on(&[0.25; 9001], &rows);
}

#[test]
fn values_of_any_size_are_told_apart() {
    // Neighbours among the numbers, both signs, both zeros, the largest and the smallest.
    let step = |v: f32, n: i32| f32::from_bits((v.to_bits() as i32 + n) as u32);
    let close: Vec<f32> = (-4..4).flat_map(|n| [step(1.0, n), step(-3.0, n), step(1e9, n)]).collect();
    let wide = [f32::MAX, -f32::MAX, 0.0, -0.0, 1e-40, -1e-40, f32::MIN_POSITIVE, 88.0];
    for logits in [&close[..], &wide] {
        for top_k in 1..=logits.len() as u32 {
            let rows: Vec<_> = (0..4)
                .map(|seed| RowSampling {
                    seed,
                    top_k,
                    temperature: 1e9,
                    top_p: [1.0, 0.4][seed as usize % 2],
                    ..RowSampling::PLAIN
                })
                .collect();
            check_on(logits, &rows);
        }
    }
}

#[test]
fn a_row_is_sampled_alike_in_any_company() {
    let gpu = gpu();
    let vocab = 9003;
    let rows: Vec<_> = (0..12).map(|i| RowSampling { temperature: (i % 4) as f32, ..shaped(i) }).collect();
    let logits = some_logits(4, vocab * rows.len(), 3.0);
    let (tokens, logprobs) = sampled(&gpu, vocab, &logits, &rows);
    for (i, logits) in logits.chunks(vocab).enumerate().step_by(5) {
        let alone = sampled(&gpu, vocab, logits, &rows[i..=i]);
        assert_eq!((alone.0[0], alone.1[0].to_bits()), (tokens[i], logprobs[i].to_bits()), "row {i}");
    }
}

#[test]
fn random_parameters_on_random_rows_follow_the_definition() {
    let mut random = Random(11);
    for round in 0..6 {
        let vocab = 1 + random.below(3000);
        // Whole numbers make ties.
        let whole = round % 2 == 0;
        let rows: Vec<_> = (0..24)
            .map(|_| RowSampling {
                seed: random.below(usize::MAX) as u64,
                temperature: 0.05 + random.below(40) as f32 * 0.1,
                top_k: [0, 1 + random.below(vocab + 5) as u32][random.below(2)],
                top_p: [1.0, random.below(1000) as f32 * 1e-3][random.below(2)],
                min_p: [0.0, random.below(100) as f32 * 1e-2][random.below(2)],
                ..RowSampling::PLAIN
            })
            .collect();
        let logits = some_logits(round, vocab * rows.len(), 3.0);
        let logits: Vec<f32> = logits.into_iter().map(|l| if whole { l.round() } else { l }).collect();
        check(vocab, &logits, &rows, &sampled(&gpu(), vocab, &logits, &rows));
    }
}
