use tokenmill_backend_model::device::Dtype;
use tokenmill_cuda::ops::norm::{add_rms_norm, rms_norm};

use crate::support::{DTYPES, Random, assert_close, buffer, empty, gpu, values, vector};

/// The last is more than a block keeps in registers.
const SHAPES: [(usize, usize); 5] = [(1, 4), (3, 64), (2, 1000), (2, 4096), (1, 8204)];

fn normed(row: &[f64], weight: &[f32], eps: f64) -> Vec<f64> {
    let mean = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
    let scale = 1.0 / (mean + eps).sqrt();
    row.iter().zip(weight).map(|(v, w)| v * scale * f64::from(*w)).collect()
}

#[test]
fn branches_are_added_and_the_sum_is_normed() {
    let gpu = gpu();
    for dtype in DTYPES {
        for (rows, cols) in SHAPES {
            let mut random = Random(2);
            let (old, x) = (random.numbers(rows * cols), random.numbers(rows * cols));
            let weight = random.numbers(cols);
            let mut residual = buffer(&gpu, Dtype::F32, cols, &old);
            let mut out = empty(&gpu, dtype, rows, cols);
            let branch = buffer(&gpu, Dtype::F32, cols, &x);
            add_rms_norm(&gpu, &mut residual, &branch, &vector(&gpu, &weight), 1e-5, &mut out).unwrap();

            let what = format!("{dtype:?} {rows}x{cols}");
            let sum: Vec<f32> = old.iter().zip(&x).map(|(a, b)| a + b).collect();
            assert_eq!(values(&gpu, &residual), sum, "{what}");
            let sum: Vec<f64> = sum.into_iter().map(f64::from).collect();
            let want: Vec<f64> = sum.chunks(cols).flat_map(|row| normed(row, &weight, 1e-5)).collect();
            let tolerance = [4e-3, 1e-3, 1e-5][DTYPES.iter().position(|d| *d == dtype).unwrap()];
            assert_close(&what, &values(&gpu, &out), &want, 1e-3, tolerance);
        }
    }
}

#[test]
fn a_buffer_is_normed_in_place() {
    let gpu = gpu();
    for (rows, cols) in SHAPES {
        let mut random = Random(3);
        let x: Vec<f32> = random.numbers(rows * cols).iter().map(|v| v * 1e-3).collect();
        let weight = random.numbers(cols);
        let mut out = buffer(&gpu, Dtype::F32, cols, &x);
        rms_norm(&gpu, &mut out, &vector(&gpu, &weight), 1e-6).unwrap();
        let x: Vec<f64> = x.into_iter().map(f64::from).collect();
        let want: Vec<f64> = x.chunks(cols).flat_map(|row| normed(row, &weight, 1e-6)).collect();
        assert_close(&format!("{rows}x{cols}"), &values(&gpu, &out), &want, 1e-3, 1e-5);
    }
}
