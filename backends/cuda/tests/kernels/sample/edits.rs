//! Biases, masks and penalties.

use tokenmill_backend_model::device::RowSampling;

use super::definition::{adjusted, check};
use super::{sampled, some_logits};
use crate::support::{Random, gpu};

/// Rows sampled greedily and by draws, on logits of their own.
fn check_rows(vocab: usize, rows: &[RowSampling<'_>]) {
    let mut all = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        all.push(RowSampling { temperature: 0.0, ..*row });
        all.push(RowSampling { seed: i as u64, temperature: 0.8, ..*row });
        all.push(RowSampling { seed: i as u64, top_k: 7, top_p: 0.9, ..*row });
    }
    let logits = some_logits(vocab as u64, vocab * all.len(), 3.0);
    check(vocab, &logits, &all, &sampled(&gpu(), vocab, &logits, &all));
}

#[test]
fn biases_are_added() {
    let (tokens, values) = ([7, 0, 8191, 8192, 16_999, 300], [6.0, -3.0, 9.0, 9.5, 12.0, f32::NEG_INFINITY]);
    let rows: Vec<_> = (0..6)
        .map(|n| RowSampling { bias_token: &tokens[..=n], bias_value: &values[..=n], ..RowSampling::PLAIN })
        .collect();
    check_rows(17_000, &rows);
}

#[test]
fn entries_of_one_token_apply_one_after_the_other() {
    let gpu = gpu();
    let mut logits = vec![0.0; 40];
    // In this order 1e8 swallows the 0.25, so that 3 is the largest; in any other it stays.
    let biased = RowSampling {
        bias_token: &[9, 3, 9, 9],
        bias_value: &[0.25, 0.125, 1e8, -1e8],
        ..RowSampling::GREEDY
    };
    assert_eq!(sampled(&gpu, 40, &logits, &[biased]).0, [3]);
    // The first entry alone leaves 4 the largest, and so do the first two.
    logits[4] = 8.0;
    logits[7] = 1.5;
    let seen = RowSampling {
        seen_token: &[4, 5, 4, 4, 6],
        seen_count: &[0, 1, 0, 1, 0],
        repetition: 2.0,
        presence: 0.0625,
        ..RowSampling::GREEDY
    };
    assert_eq!(adjusted(&logits, &seen)[4], 8.0 / 2.0 / 2.0 / 2.0 - 0.0625);
    assert_eq!(sampled(&gpu, 40, &logits, &[seen]).0, [7]);
    check_rows(40, &[biased, seen]);
}

#[test]
fn masks_leave_what_they_allow() {
    let vocab = 8200_usize;
    let words = vocab.div_ceil(32);
    let mask = |tokens: &[usize]| {
        let mut mask = vec![0_u32; words];
        tokens.iter().for_each(|token| mask[token / 32] |= 1 << (token % 32));
        mask
    };
    // Bits behind the vocabulary count for nothing.
    let mut all = vec![u32::MAX; words];
    let single = [mask(&[0]), mask(&[31]), mask(&[8191]), mask(&[8192]), mask(&[8199])];
    all.extend(mask(&[7, 19, 8195]));
    let masks: Vec<&[u32]> =
        single.iter().map(|mask| &mask[..]).chain([&all[..words], &all[words..], &all[words..]]).collect();
    let rows: Vec<_> = masks.iter().map(|mask| RowSampling { mask, ..RowSampling::PLAIN }).collect();
    check_rows(vocab, &rows);
    let logits = some_logits(5, vocab * 5, 3.0);
    let only: Vec<_> = single.iter().map(|mask| RowSampling { mask, ..RowSampling::GREEDY }).collect();
    assert_eq!(sampled(&gpu(), vocab, &logits, &only).0, [0, 31, 8191, 8192, 8199]);
}

#[test]
fn penalties_follow_their_formulas() {
    let vocab = 8210;
    let seen: Vec<u32> = (0..vocab as u32).step_by(3).rev().collect();
    let counts: Vec<u32> = seen.iter().map(|token| token % 4).collect();
    let base = RowSampling { seen_token: &seen, seen_count: &counts, ..RowSampling::PLAIN };
    let rows = [
        RowSampling { repetition: 1.3, ..base },
        RowSampling { repetition: 50.0, ..base },
        RowSampling { repetition: 0.5, ..base },
        RowSampling { presence: 1.5, ..base },
        RowSampling { frequency: 1.0, ..base },
        RowSampling { frequency: -2.0, presence: 0.5, repetition: 1.1, ..base },
    ];
    check_rows(vocab, &rows);
}

#[test]
fn penalties_round_as_defined_so_that_ties_stay() {
    // l - (f * count + p) with every product rounded: a fused one gives another number for some of these.
    let mut random = Random(12);
    for _ in 0..20 {
        let frequency = 0.5 + 0.3 * random.number();
        let presence = 1e-3 * random.number();
        let row =
            RowSampling { seen_token: &[5], seen_count: &[3], frequency, presence, ..RowSampling::GREEDY };
        let mut logits = vec![-10.0; 64];
        // So close that nothing is lost in the subtraction.
        logits[5] = 3.0 * frequency + 0.3;
        // A tie, which the lower id wins only if the numbers are the same.
        let penalised = adjusted(&logits, &row)[5];
        logits[2] = penalised;
        assert_eq!(sampled(&gpu(), 64, &logits, &[row]).0, [2], "{penalised}");
        logits[2] = -10.0;
        logits[60] = penalised;
        assert_eq!(sampled(&gpu(), 64, &logits, &[row]).0, [5], "{penalised}");
    }
}

#[test]
fn all_edits_at_once_apply_in_their_order() {
    let vocab = 1000_usize;
    let mut random = Random(13);
    let masks: Vec<u32> = (0..2 * vocab.div_ceil(32)).map(|_| random.below(1 << 32) as u32 | 1).collect();
    let (one, other) = masks.split_at(masks.len() / 2);
    let tokens: Vec<u32> = (0..40).map(|_| random.below(vocab) as u32).collect();
    let biases: Vec<f32> = random.numbers(40).iter().map(|v| v * 5.0).collect();
    let counts: Vec<u32> = (0..40).map(|i| i % 3).collect();
    let rows: Vec<_> = (0..10)
        .map(|i| RowSampling {
            bias_token: &tokens[i..][..i],
            bias_value: &biases[i..][..i],
            mask: [one, other, &[]][i % 3],
            seen_token: &tokens[2 * i..][..20],
            seen_count: &counts[i..][..20],
            repetition: 1.2,
            presence: 0.2,
            frequency: 0.3,
            min_p: 0.02,
            ..RowSampling::PLAIN
        })
        .collect();
    check_rows(vocab, &rows);
}

#[test]
fn a_bias_that_leaves_no_number_gives_no_token() {
    let with = |bias_value| RowSampling { bias_token: &[1], bias_value, ..RowSampling::PLAIN };
    let rows = [with(&[f32::INFINITY]), with(&[f32::NAN]), with(&[f32::MAX]), with(&[f32::NEG_INFINITY])];
    let logits = [0.0, 3e38].repeat(rows.len());
    for temperature in [0.0, 1.0] {
        let rows = rows.map(|row| RowSampling { temperature, ..row });
        assert_eq!(sampled(&gpu(), 2, &logits, &rows).0, [-1, -1, -1, 0]);
    }
}

#[test]
fn more_edits_than_there_is_room_for_make_room() {
    let vocab = 64;
    let tokens: Vec<u32> = (0..4000).map(|i| i % 64).collect();
    let values: Vec<f32> = (0..4000).map(|i| [0.5, -0.25][i / 64 % 2] * (i % 5) as f32).collect();
    let row = RowSampling { bias_token: &tokens, bias_value: &values, ..RowSampling::PLAIN };
    check_rows(vocab, &[row, row]);
}
