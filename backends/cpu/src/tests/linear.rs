use super::{Random, assert_close, devices, filled};
use crate::buffer::Buffer;
use crate::reference;
use half::{bf16, f16};
use tokenmill_backend_model::device::{Device, Dtype, Matrix, Precision};

/// The bytes of `values` as stored, and what they are worth.
fn stored(values: &[f32], dtype: Dtype) -> (Vec<u8>, Vec<f32>) {
    let one = |&v: &f32| match dtype {
        Dtype::F32 => (v.to_le_bytes().to_vec(), v),
        Dtype::F16 => (f16::from_f32(v).to_le_bytes().to_vec(), f16::from_f32(v).to_f32()),
        Dtype::Bf16 => (bf16::from_f32(v).to_le_bytes().to_vec(), bf16::from_f32(v).to_f32()),
    };
    let (bytes, worth): (Vec<_>, Vec<_>) = values.iter().map(one).unzip();
    (bytes.concat(), worth)
}

#[test]
fn products_equal_plain_loops_on_every_path() {
    let mut random = Random(1);
    for case in 0..60 {
        let dtype = [Dtype::F32, Dtype::F16, Dtype::Bf16][case % 3];
        let (rows, cols) = (random.size(1, 70), random.size(1, 200));
        let (first, second, column) = (random.size(1, 90), random.size(0, 40), random.size(0, 5));
        let n = first + second;
        let x = random.numbers(rows * cols);
        let (bytes, worth) = stored(&random.numbers(n * cols), dtype);
        let bias = (case % 2 == 0).then(|| random.numbers(n));
        let rounded: Vec<f32> = match dtype {
            Dtype::Bf16 => x.iter().map(|v| bf16::from_f32(*v).to_f32()).collect(),
            _ => x.clone(),
        };
        let mut want = vec![9.0; rows * (n + column)];
        for (x, out) in rounded.chunks_exact(cols).zip(want.chunks_exact_mut(n + column)) {
            reference::rows::linear(x, &worth, bias.as_deref(), &mut out[column..]);
        }
        let split = first * cols * dtype.size();
        let part = |rows, bytes| Matrix { dtype, rows, cols, stride: cols, bytes };
        for (name, mut device) in devices(1 + case % 3) {
            let weight =
                device.weight(&[part(first, &bytes[..split]), part(second, &bytes[split..])]).unwrap();
            let input = filled(rows, cols, &x);
            device.buffer(rows, cols, Precision::Work).unwrap();
            let mut out = filled(rows, n + column, &vec![9.0; want.len()]);
            device.linear(&input, &weight, bias.as_ref(), &mut out, column).unwrap();
            let what = format!("{name}, {dtype:?} [{rows}, {cols}] x [{n}, {cols}]");
            assert_close(&what, out.all(), &want, 2e-5);
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_rows_beside_it_nor_on_the_threads() {
    let mut random = Random(2);
    let (rows, cols, n) = (77, 96, 130);
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
        let x = random.numbers(rows * cols);
        let (bytes, _) = stored(&random.numbers(n * cols), dtype);
        let matrix = Matrix { dtype, rows: n, cols, stride: cols, bytes: &bytes };
        for ((name, mut one), (_, mut three)) in devices(1).into_iter().zip(devices(3)) {
            let mut run = |threads: usize, rows: usize, x: &[f32]| {
                let device = if threads == 1 { &mut one } else { &mut three };
                let weight = device.weight(&[matrix]).unwrap();
                device.buffer(rows, cols, Precision::Work).unwrap();
                let mut out: Buffer = device.buffer(rows, n, Precision::Work).unwrap();
                device.linear(&filled(rows, cols, x), &weight, None, &mut out, 0).unwrap();
                out.all().to_vec()
            };
            let all = run(3, rows, &x);
            assert_eq!(all, run(1, rows, &x), "{name} {dtype:?}: threads");
            for (first, count) in [(0, 1), (5, 1), (76, 1), (3, 2), (10, 7), (20, 17), (30, 40)] {
                let some = run(3, count, &x[first * cols..(first + count) * cols]);
                assert_eq!(
                    some,
                    all[first * n..(first + count) * n],
                    "{name} {dtype:?}: {count} rows of {first}"
                );
            }
        }
    }
}
