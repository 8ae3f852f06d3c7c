use tokenmill_backend_model::device::{Dtype, RowSampling, Step};
use tokenmill_cuda::batch::TileTokens;
use tokenmill_cuda::ops::embed::embed;
use tokenmill_cuda::ops::sample::{Sampled, Space, sample};

use crate::support::{DTYPES, Random, batch, buffer, empty, gpu, rounded, values, weight};

const ONE_SEQUENCE: Step<'static> = Step {
    tokens: &[],
    seq_start: &[],
    seq_pos: &[0],
    block_start: &[0, 1],
    blocks: &[0],
    rows: &[],
    copies: &[],
};

#[test]
fn tokens_become_scaled_rows_of_the_table() {
    let gpu = gpu();
    for dtype in DTYPES {
        for (tokens, cols) in [(&[3][..], 8), (&[0, 12, 5, 5, 1], 264), (&[12, 2], 1032)] {
            let table = rounded(dtype, &Random(1).numbers(13 * cols));
            let on_gpu = weight(&gpu, dtype, 13, cols, &table);
            let ends = [0, tokens.len() as u32];
            let step = batch(&gpu, &Step { tokens, seq_start: &ends, ..ONE_SEQUENCE }, 16, TileTokens(16));
            let mut out = empty(&gpu, Dtype::F32, tokens.len() + 1, cols);
            embed(&gpu, &step, None, &on_gpu, 1.5, &mut out).unwrap();
            let row = |token: &i32| table[*token as usize * cols..][..cols].iter().map(|v| v * 1.5);
            assert_eq!(out.rows(), tokens.len());
            assert_eq!(
                values(&gpu, &out),
                tokens.iter().flat_map(row).collect::<Vec<_>>(),
                "{dtype:?} {cols}"
            );
        }
    }
}

#[test]
fn a_token_may_be_what_a_row_of_the_step_before_sampled() {
    let gpu = gpu();
    let logits = [0.0, 9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, f32::NAN, 0.0, 0.0];
    let logits = buffer(&gpu, Dtype::F32, 4, &logits);
    let (space, mut sampled) = (Space::new(&gpu, 3, 4).unwrap(), Sampled::new(&gpu, 3, 4).unwrap());
    let rows = [RowSampling { temperature: 0.0, ..RowSampling::PLAIN }; 3];
    sample(&gpu, &logits, &rows, &space, &mut sampled).unwrap();

    let table = weight(&gpu, Dtype::F32, 4, 4, &(0..16).map(|i| i as f32).collect::<Vec<_>>());
    // Row 2 sampled nothing: any token will do.
    let step = Step { tokens: &[-1, 2, -2, -3], seq_start: &[0, 4], ..ONE_SEQUENCE };
    let step = batch(&gpu, &step, 16, TileTokens(16));
    let mut out = empty(&gpu, Dtype::F32, 4, 4);
    embed(&gpu, &step, Some(&sampled), &table, 1.0, &mut out).unwrap();
    let firsts: Vec<f32> = values(&gpu, &out).iter().step_by(4).copied().collect();
    assert_eq!(firsts, [4.0, 8.0, 12.0, 0.0]);
}
