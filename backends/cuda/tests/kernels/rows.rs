use tokenmill_backend_model::device::{Dtype, Step};
use tokenmill_cuda::batch::TileTokens;
use tokenmill_cuda::ops::rows::{gather_rows, softcap};

use crate::support::{Random, assert_close, batch, buffer, empty, gpu, values};

#[test]
fn rows_are_gathered_also_twice() {
    let gpu = gpu();
    for cols in [4, 100, 1028] {
        let x = Random(5).numbers(6 * cols);
        let rows = [5, 0, 3, 3];
        let step = Step {
            tokens: &[1; 6],
            seq_start: &[0, 6],
            seq_pos: &[0],
            block_start: &[0, 1],
            blocks: &[0],
            rows: &rows,
            copies: &[],
        };
        let step = batch(&gpu, &step, 16, TileTokens(16));
        let mut out = empty(&gpu, Dtype::F32, 5, cols);
        gather_rows(&gpu, &step, &buffer(&gpu, Dtype::F32, cols, &x), &mut out).unwrap();
        let want: Vec<f32> =
            rows.iter().flat_map(|row| &x[*row as usize * cols..][..cols]).copied().collect();
        assert_eq!(values(&gpu, &out), want);
    }
}

#[test]
fn numbers_are_capped_softly() {
    let gpu = gpu();
    for (rows, cols) in [(1, 1), (1, 7), (3, 1025)] {
        let x: Vec<f32> = Random(6).numbers(rows * cols).iter().map(|v| v * 90.0).collect();
        let mut out = buffer(&gpu, Dtype::F32, cols, &x);
        softcap(&gpu, &mut out, 30.0).unwrap();
        let want: Vec<f64> = x.iter().map(|v| 30.0 * (f64::from(*v) / 30.0).tanh()).collect();
        assert_close(&format!("{rows}x{cols}"), &values(&gpu, &out), &want, 1e-3, 1e-5);
    }
}
