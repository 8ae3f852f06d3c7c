//! Greedy and forced rows, and rows that give no token.

use tokenmill_backend_model::device::{Dtype, RowSampling};
use tokenmill_cuda::ops::sample::{Sampled, Space, sample};

use super::definition::check;
use super::{sampled, some_logits};
use crate::support::{buffer, gpu};

#[test]
fn greedy_rows_take_the_largest_whatever_shapes_a_draw() {
    for vocab in [1, 3, 4, 31, 257, 8192, 8193, 17_003] {
        let rows: Vec<_> = (0..5)
            .map(|i| RowSampling {
                top_k: i % 3,
                top_p: 0.5,
                min_p: 0.1,
                seed: u64::from(i),
                ..RowSampling::GREEDY
            })
            .collect();
        let logits = some_logits(vocab as u64, vocab * rows.len(), 9.0);
        check(vocab, &logits, &rows, &sampled(&gpu(), vocab, &logits, &rows));
    }
}

#[test]
fn the_lower_id_wins_a_tie() {
    let gpu = gpu();
    let mut logits = vec![-1.0; 20_000];
    for tied in [[19_999, 12_000], [12_000, 8192], [8192, 8191], [8191, 37], [37, 33], [33, 0]] {
        tied.iter().for_each(|token| logits[*token] = 5.0);
        assert_eq!(sampled(&gpu, 20_000, &logits, &[RowSampling::GREEDY]).0, [tied[1] as i32]);
    }
    // Zero has two signs and one value.
    assert_eq!(sampled(&gpu, 4, &[-1.0, -0.0, 0.0, -0.0], &[RowSampling::GREEDY]).0, [1]);
}

#[test]
fn forced_tokens_are_the_result_with_their_own_log_probability() {
    let vocab = 8300_usize;
    let nothing = vec![0; vocab.div_ceil(32)];
    let rows: Vec<_> = [0, 37, 8191, 8192, 8299]
        .map(|token| RowSampling {
            forced: Some(token),
            temperature: token as f32,
            mask: &nothing,
            ..RowSampling::PLAIN
        })
        .to_vec();
    let logits = some_logits(7, vocab * rows.len(), 3.0);
    check(vocab, &logits, &rows, &sampled(&gpu(), vocab, &logits, &rows));
}

#[test]
fn rows_with_nothing_to_sample_give_no_token() {
    let gpu = gpu();
    for vocab in [70_usize, 9000] {
        let with = |token: usize, value: f32| {
            let mut row = vec![0.5; vocab];
            row[token] = value;
            row
        };
        let mut lists: Vec<Vec<f32>> = vec![vec![f32::NEG_INFINITY; vocab]];
        for token in [0, vocab / 2, vocab - 1] {
            lists.extend([with(token, f32::NAN), with(token, -f32::NAN), with(token, f32::INFINITY)]);
        }
        lists.push(vec![1.0; vocab]); // its mask allows nothing
        let nothing = vec![0; vocab.div_ceil(32)];
        let filtered = RowSampling { top_k: 5, top_p: 0.5, ..RowSampling::PLAIN };
        for how in [RowSampling::GREEDY, RowSampling::PLAIN, filtered] {
            let mut rows = vec![how; lists.len()];
            rows.last_mut().unwrap().mask = &nothing;
            let (tokens, logprobs) = sampled(&gpu, vocab, &lists.concat(), &rows);
            assert!(tokens.iter().all(|token| *token == -1), "{tokens:?}");
            assert!(logprobs.iter().all(|logprob| logprob.is_nan()), "{logprobs:?}");
        }
    }
}

#[test]
fn nothing_finite_is_no_hindrance_to_a_forced_token_but_nan_is() {
    let forced = RowSampling { forced: Some(2), ..RowSampling::PLAIN };
    let logits = [[f32::NEG_INFINITY; 4], [0.0, f32::NAN, 0.0, 0.0], [0.0, 1.0, 2.0, 3.0]].concat();
    let (tokens, logprobs) = sampled(&gpu(), 4, &logits, &[forced; 3]);
    assert_eq!(tokens, [2, -1, 2]);
    assert!(logprobs[1].is_nan() && (logprobs[2] + 1.440_19).abs() < 1e-5, "{logprobs:?}");
}

#[test]
fn results_of_a_slot_are_those_of_its_last_step() {
    let gpu = gpu();
    let space = Space::new(&gpu, 4, 5).unwrap();
    let mut out = Sampled::new(&gpu, 4, 5).unwrap();
    for n in [4, 1, 3] {
        let logits: Vec<f32> = (0..n * 5).map(|i| ((i * 7 + n) % 11) as f32).collect();
        sample(&gpu, &buffer(&gpu, Dtype::F32, 5, &logits), &vec![RowSampling::GREEDY; n], &space, &mut out)
            .unwrap();
        let (mut tokens, mut logprobs) = (Vec::new(), Vec::new());
        out.fetch(&mut tokens, &mut logprobs).unwrap();
        check(5, &logits, &vec![RowSampling::GREEDY; n], &(tokens, logprobs));
    }
}
