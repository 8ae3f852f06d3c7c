//! The norm of rows, whose sum goes over a block.

use std::ptr;

use super::{Case, compare, finished, numbers, widened};
use crate::harness::{Arg, Driver, Grid};

pub(crate) fn norm() -> Case {
    Case { name: "norm", files: &["include/reduce.cuh", "norm.cu"], entries: &[], check }
}

const ROWS: usize = 5;
const COLS: usize = 1000;
const EPS: f32 = 1e-5;

fn check(driver: &Driver) -> Result<(), String> {
    let x: Vec<f32> = numbers(ROWS * COLS, 4).iter().map(|v| widened(*v) as f32).collect();
    let weight: Vec<f32> = numbers(COLS, 5).iter().map(|v| widened(*v) as f32).collect();
    let (x_at, weight_at) = (driver.uploaded(&x), driver.uploaded(&weight));
    let grid = Grid { blocks: [ROWS as u32 + 2, 1, 1], threads: 128, shared: 0 };
    let sizes = [Arg::U32(ROWS as u32), Arg::U32(COLS as u32), Arg::F32(EPS)];
    let args = [&[Arg::Ptr(x_at), Arg::Ptr(weight_at)][..], &sizes].concat();
    finished(driver, driver.launch("rms_norm_f32", grid, &args, ptr::null_mut()))?;
    let got = driver
        .download::<f32>(x_at, ROWS * COLS)
        .map_err(|status| format!("{status}: {}", driver.report()))?;
    let wanted: Vec<f64> = x
        .chunks(COLS)
        .flat_map(|row| {
            let squares: f64 = row.iter().map(|v| f64::from(*v).powi(2)).sum();
            let scale = 1.0 / (squares / COLS as f64 + f64::from(EPS)).sqrt();
            row.iter()
                .zip(&weight)
                .map(move |(v, w)| f64::from(*v) * scale * f64::from(*w))
                .collect::<Vec<_>>()
        })
        .collect();
    compare(&got.iter().map(|v| f64::from(*v)).collect::<Vec<_>>(), &wanted, 1e-5)
}
