//! The tiled product, with ragged edges in all three dimensions.

use std::ptr;

use super::{Case, compare, finished, numbers, widened};
use crate::harness::{Arg, Driver, Grid};

pub(crate) fn gemm() -> Case {
    Case {
        name: "gemm",
        files: &["gemm.cu"],
        entries: &[("ENTRIES(bf16)\nENTRIES(f16)", "ENTRY(bf16, 64, 128, 64, 2, 2, 3, 3)")],
        check,
    }
}

const M: usize = 70;
const N: usize = 136;
const K: usize = 328;

fn check(driver: &Driver) -> Result<(), String> {
    let (x, w) = (numbers(M * K, 1), numbers(N * K, 2));
    // What lies behind the last row is a number too, for whoever reads too far.
    let more = |values: &[u16]| driver.uploaded(&[values, &numbers(64, 3)].concat());
    let (x_at, w_at, out) = (more(&x), more(&w), driver.alloc(M * N * 4));
    let grid = Grid {
        blocks: [(M.div_ceil(64) * N.div_ceil(128)) as u32, 1, 1],
        threads: 128,
        shared: 3 * 192 * 128,
    };
    let sizes = [M, N, K, N, 0].map(|size| Arg::U32(size as u32));
    let pointers = [Arg::Ptr(x_at), Arg::Ptr(w_at), Arg::Ptr(0), Arg::Ptr(out)];
    let args = [&pointers[..], &sizes, &[Arg::U32(1), Arg::Ptr(0), Arg::Ptr(0)]].concat();
    finished(driver, driver.launch("gemm_bf16_64x128", grid, &args, ptr::null_mut()))?;
    let got =
        driver.download::<f32>(out, M * N).map_err(|status| format!("{status}: {}", driver.report()))?;
    let wanted: Vec<f64> = (0..M * N)
        .map(|i| {
            let (m, n) = (i / N, i % N);
            (0..K).map(|k| widened(x[m * K + k]) * widened(w[n * K + k])).sum()
        })
        .collect();
    compare(&got.iter().map(|v| f64::from(*v)).collect::<Vec<_>>(), &wanted, 1e-4)
}
