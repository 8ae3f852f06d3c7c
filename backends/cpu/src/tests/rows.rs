use super::{Random, assert_close, devices, filled};
use crate::reference;
use tokenmill_backend_model::device::{Activation, Device, Precision};

#[test]
fn norms_gates_and_caps_equal_plain_loops_on_every_path() {
    let mut random = Random(3);
    for case in 0..40 {
        let (rows, n) = (random.size(1, 40), random.size(1, 700));
        let wide: Vec<f32> = random.numbers(rows * 2 * n).iter().map(|v| v * 12.0).collect();
        let (x, y) = wide.split_at(rows * n);
        let weight = random.numbers(n);
        for (name, mut device) in devices(1 + case % 2) {
            let (mut normed, mut out) = (filled(rows, n, x), device.buffer(rows, n, Precision::Sum).unwrap());
            let mut want = vec![0.0; rows * n];
            let norm = |x: &[f32], want: &mut [f32]| {
                for (x, want) in x.chunks_exact(n).zip(want.chunks_exact_mut(n)) {
                    reference::rows::rms_norm(x, &weight, 1e-5, want);
                }
            };
            norm(x, &mut want);
            device.rms_norm(&mut normed, &weight, 1e-5).unwrap();
            assert_close(&format!("{name}: norm of {n}"), normed.all(), &want, 2e-6);

            let sum: Vec<f32> = x.iter().zip(y).map(|(a, b)| a + b).collect();
            let mut residual = filled(rows, n, x);
            device.add_rms_norm(&mut residual, &filled(rows, n, y), &weight, 1e-5, &mut out).unwrap();
            norm(&sum, &mut want);
            assert_eq!(residual.all(), sum, "{name}: residual");
            assert_close(&format!("{name}: norm after a sum of {n}"), out.all(), &want, 2e-6);

            for activation in [Activation::Silu, Activation::GeluTanh, Activation::Gelu] {
                device.gate_mul(&filled(rows, 2 * n, &wide), activation, &mut out).unwrap();
                for (row, want) in wide.chunks_exact(2 * n).zip(want.chunks_exact_mut(n)) {
                    for i in 0..n {
                        want[i] = reference::rows::activate(row[i], activation) * row[n + i];
                    }
                }
                assert_close(&format!("{name}: {activation:?} of {n}"), out.all(), &want, 2e-5);
            }

            let mut capped = filled(rows, n, x);
            device.softcap(&mut capped, 3.0).unwrap();
            let want: Vec<f32> = x.iter().map(|x| reference::rows::softcap(*x, 3.0)).collect();
            assert_close(&format!("{name}: cap"), capped.all(), &want, 2e-6);
        }
    }
}
