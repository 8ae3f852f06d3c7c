use tokenmill_backend_model::device::Activation;
use tokenmill_cuda::ops::gate::gate_mul;

use crate::support::{DTYPES, Random, assert_close, buffer, empty, gpu, rounded, values};

/// The error function by its Maclaurin series, which cancels little below 3.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..100 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    2.0 / std::f64::consts::PI.sqrt() * sum
}

fn activated(x: f64, how: Activation) -> f64 {
    match how {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
        }
        Activation::Gelu => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
    }
}

#[test]
fn gates_are_activated_and_multiply() {
    let gpu = gpu();
    for (dtype, tolerance) in DTYPES.into_iter().zip([4e-3, 1e-3, 1e-5]) {
        for (rows, cols) in [(1, 8), (3, 264), (2, 1032)] {
            let numbers: Vec<f32> = Random(4).numbers(rows * 2 * cols).iter().map(|v| v * 4.0).collect();
            let numbers = rounded(dtype, &numbers);
            let gate_up = buffer(&gpu, dtype, 2 * cols, &numbers);
            for how in [Activation::Silu, Activation::GeluTanh, Activation::Gelu] {
                let mut out = empty(&gpu, dtype, rows, cols);
                gate_mul(&gpu, &gate_up, how, &mut out).unwrap();
                let row = |row: &[f32]| -> Vec<f64> {
                    let (gate, up) = row.split_at(cols);
                    gate.iter().zip(up).map(|(g, u)| activated(f64::from(*g), how) * f64::from(*u)).collect()
                };
                let want: Vec<f64> = numbers.chunks(2 * cols).flat_map(row).collect();
                // 1 + erf cancels where the gate is far below zero: so does the formula itself.
                let what = format!("{dtype:?} {rows}x{cols} {how:?}");
                assert_close(&what, &values(&gpu, &out), &want, 0.5, tolerance);
            }
        }
    }
}

#[test]
fn a_gate_far_from_zero_is_its_limit() {
    let gpu = gpu();
    let gate_up = [200.0, -200.0, 60.0, -60.0, 1.0, 1.0, 1.0, 1.0];
    for how in [Activation::Silu, Activation::GeluTanh, Activation::Gelu] {
        for dtype in DTYPES {
            let gate_up = rounded(dtype, &[&gate_up[..4], &[0.0; 4], &gate_up[4..], &[1.0; 4]].concat());
            let mut out = empty(&gpu, dtype, 1, 8);
            gate_mul(&gpu, &buffer(&gpu, dtype, 16, &gate_up), how, &mut out).unwrap();
            assert_close(&format!("{how:?}"), &values(&gpu, &out)[..4], &[200.0, 0.0, 60.0, 0.0], 1.0, 1e-6);
        }
    }
}
