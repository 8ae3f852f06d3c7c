//! A call: what a step costs by its size, making an instance, and keeping one.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokenmill_plugin_mirostat_v2::MirostatV2;
use tokenmill_plugin_standard::Standard;
use tokenmill_plugin_typical::Typical;
use tokenmill_policy::{Fcfs, Sampler, Silent};
use tokenmill_wasm::{BenchReport, Limits, Native, bench};

use crate::Bench;
use crate::figures::{at_most, median, round, spread};

/// Sets three knobs of every row.
pub(crate) const STANDARD: &str = r#"{"temperature": 0.8, "top_k": 40, "top_p": 0.95}"#;
const VOCAB: u32 = 49_152;
const REPEATS: usize = 5;

/// Microseconds that a scheduler may take, and nanoseconds for each sequence.
const SCHEDULER: (f64, f64) = (5.0, 20.0);
/// Microseconds for each row beyond the policy's own work.
const SAMPLER: f64 = 1.0;
const INSTANTIATE_US: f64 = 10.0;
const IDLE_KIB: f64 = 64.0;

pub(crate) fn measure(on: &Bench) -> Value {
    let all = Reports {
        fcfs: repeat(on, "fcfs", "", || Native::Scheduler(Box::new(Fcfs::default()))),
        standard: repeat(on, "standard", STANDARD, || configured(Standard::default(), STANDARD)),
        mirostat: repeat(on, "mirostat-v2", "", || configured(MirostatV2::default(), "")),
        typical: repeat(on, "typical", "", || configured(Typical::default(), "")),
    };
    json!({
        "scheduler_fcfs": {
            "goal": "at every size at most 5 us + 20 ns/sequence",
            "met": met(&all.fcfs, |size, wasm, _| wasm <= SCHEDULER.0 + size * SCHEDULER.1 / 1000.0),
            "wasm_fit": fit(&all.fcfs),
            "sizes": sizes(&all.fcfs),
        },
        "sampler_standard_plan": {
            "goal": "at every size at most 1 us/row plus what it takes natively",
            "met": met(&all.standard, |size, wasm, native| (wasm - native) / size <= SAMPLER),
            "met_from_64_rows": met(&all.standard, |size, wasm, native| {
                size < 64.0 || (wasm - native) / size <= SAMPLER
            }),
            "wasm_fit": fit(&all.standard),
            "sizes": sizes(&all.standard),
        },
        "sampler_mirostat_v2_plan_and_pick": { "wasm_fit": fit(&all.mirostat), "sizes": sizes(&all.mirostat) },
        "sampler_typical_plan_and_pick": { "wasm_fit": fit(&all.typical), "sizes": sizes(&all.typical) },
        "instances": {
            "scheduler_fcfs": instances(&all.fcfs),
            "sampler_standard": instances(&all.standard),
            "sampler_mirostat_v2": instances(&all.mirostat),
        },
    })
}

struct Reports {
    fcfs: Vec<BenchReport>,
    standard: Vec<BenchReport>,
    mirostat: Vec<BenchReport>,
    typical: Vec<BenchReport>,
}

fn configured(mut sampler: impl Sampler + 'static, config: &str) -> Native {
    sampler.configure(config, Arc::new(Silent { vocab: VOCAB })).unwrap();
    Native::Sampler(Box::new(sampler))
}

/// Time limits are out of the way here: a thousand inspected rows take longer than a step may.
pub(crate) fn patient() -> Limits {
    let long = Duration::from_secs(1);
    Limits { sampling: long, scheduling: long, ..Limits::default() }
}

fn repeat(on: &Bench, name: &str, config: &str, native: impl Fn() -> Native) -> Vec<BenchReport> {
    let (runtime, bytes) = (crate::runtime(patient()), on.component(name));
    let once = |_| {
        let report =
            bench(&runtime, &bytes, config, Arc::new(Silent { vocab: VOCAB }), Some(native())).unwrap();
        assert!(report.steps.iter().all(|step| step.undecided == 0), "{name} did not decide: {report}");
        report
    };
    (0..on.times(REPEATS)).map(once).collect()
}

/// One figure of every repeat.
fn of(reports: &[BenchReport], figure: impl Fn(&BenchReport) -> f64) -> Vec<f64> {
    reports.iter().map(figure).collect()
}

fn native(report: &BenchReport, at: usize) -> f64 {
    report.steps[at].native_us_per_step.unwrap_or(f64::NAN)
}

fn sizes(reports: &[BenchReport]) -> Value {
    let of_size = |at: usize| {
        let rows = f64::from(reports[0].steps[at].rows);
        json!({
            "n": rows,
            "wasm_us_per_step": spread(&of(reports, |report| report.steps[at].us_per_step)),
            "native_us_per_step": spread(&of(reports, |report| native(report, at))),
            "added_us_each": spread(&of(reports, |report| {
                (report.steps[at].us_per_step - native(report, at)) / rows
            })),
            "wasm_to_native": spread(&of(reports, |report| report.steps[at].us_per_step / native(report, at))),
        })
    };
    (0..reports[0].steps.len()).map(of_size).collect()
}

/// Whether medians of WASM and native keep to a rule at every size.
fn met(reports: &[BenchReport], rule: impl Fn(f64, f64, f64) -> bool) -> bool {
    (0..reports[0].steps.len()).all(|at| {
        let wasm = median(&of(reports, |report| report.steps[at].us_per_step));
        let native = median(&of(reports, |report| native(report, at)));
        rule(f64::from(reports[0].steps[at].rows), wasm, native)
    })
}

/// `us = fixed + n * each`, by least squares of relative errors.
fn fit(reports: &[BenchReport]) -> Value {
    let (mut weights, mut x1, mut x2, mut y1, mut xy) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for at in 0..reports[0].steps.len() {
        let (x, y) = (
            f64::from(reports[0].steps[at].rows),
            median(&of(reports, |report| report.steps[at].us_per_step)),
        );
        let weight = 1.0 / (y * y);
        weights += weight;
        x1 += weight * x;
        x2 += weight * x * x;
        y1 += weight * y;
        xy += weight * x * y;
    }
    let each = (weights * xy - x1 * y1) / (weights * x2 - x1 * x1);
    let fixed = (y1 - each * x1) / weights;
    json!({ "fixed_us": round(fixed), "each_ns": round(each * 1000.0) })
}

fn instances(reports: &[BenchReport]) -> Value {
    let memory = of(reports, |report| report.idle_instance_kib.unwrap_or(f64::NAN));
    json!({
        "instantiate_us": at_most(&of(reports, |report| report.instantiate_us), INSTANTIATE_US),
        "configure_us": spread(&of(reports, |report| report.configure_us)),
        "idle_kib": at_most(&memory, IDLE_KIB),
        "component_bytes": reports[0].bytes,
    })
}
