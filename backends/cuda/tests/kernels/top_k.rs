use tokenmill_backend_model::device::Dtype;
use tokenmill_cuda::Gpu;
use tokenmill_cuda::ops::top_k::TopK;

use crate::support::{Random, buffer, gpu};

/// Of every `k` on the last of two rows.
fn check(gpu: &Gpu, logits: &[f32], sizes: &[usize]) {
    let n = logits.len();
    // -0 is 0 here.
    let value = |id: u32| logits[id as usize] + 0.0;
    let mut order: Vec<u32> = (0..n as u32).collect();
    order.sort_by(|a, b| value(*b).total_cmp(&value(*a)).then(a.cmp(b)));
    let largest = f64::from(value(order[0]));
    let log_sum = logits.iter().map(|l| (f64::from(*l) - largest).exp()).sum::<f64>().ln();
    let on_gpu = buffer(gpu, Dtype::F32, n, &[&vec![9.0; n], logits].concat());
    let mut top = TopK::new(gpu).unwrap();
    for k in sizes.iter().copied().filter(|k| *k <= n) {
        let (mut ids, mut logprobs) = (vec![0; k], vec![f32::NAN; k]);
        top.of_row(gpu, &on_gpu, 1, &mut ids, &mut logprobs).unwrap();
        assert_eq!(ids, order[..k], "{k} of {n}");
        for (id, logprob) in ids.iter().zip(logprobs) {
            let want = f64::from(value(*id)) - largest - log_sum;
            let near = (f64::from(logprob) - want).abs() <= 1e-5 * want.abs().max(1.0);
            assert!(near || f64::from(logprob) == want, "{logprob} for {want}: token {id}, {k} of {n}");
        }
    }
}

#[test]
fn the_largest_are_those_of_a_sort() {
    let gpu = gpu();
    for n in [1, 63, 1024, 1025, 5000, 20_003] {
        let logits: Vec<f32> = Random(n as u64).numbers(n).iter().map(|v| v * 20.0).collect();
        check(&gpu, &logits, &[0, 1, 5, 20, 100, 512, 513, n]);
    }
}

#[test]
fn the_lower_id_comes_first_on_a_tie() {
    let gpu = gpu();
    for n in [40, 2500] {
        let logits: Vec<f32> = Random(9).numbers(n).iter().map(|v| (v * 6.0).round()).collect();
        check(&gpu, &logits, &[1, 3, 20, 40, 300]);
    }
    check(&gpu, &[0.0, -0.0, 1.0, -0.0, 0.0, 1.0], &[1, 3, 5, 6]);
}

#[test]
fn ties_that_are_too_many_for_the_device_are_no_different() {
    let gpu = gpu();
    check(&gpu, &[0.5; 2049], &[1, 7, 512]);
    check(&gpu, &[0.5; 2048], &[1, 7, 512]);
}

#[test]
fn what_cannot_be_sampled_comes_last() {
    let mut logits = vec![f32::NEG_INFINITY; 100];
    logits[50] = 1.0;
    logits[20] = 0.0;
    check(&gpu(), &logits, &[1, 2, 3, 100]);
}
