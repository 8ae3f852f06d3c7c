//! Kernels to plant bugs in: their text, how they are run, and what they must give.

#![allow(dead_code, reason = "each test uses a part")]

mod attention;
mod gemm;
mod norm;

use std::fs;

#[allow(unused_imports, reason = "each test uses a part")]
pub(crate) use self::{attention::attention, gemm::gemm, norm::norm};

use crate::harness::{Driver, SCHEDULES, kernels_folder};

pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Files of `kernels/`; headers first, which take the place of their includes.
    pub(crate) files: &'static [&'static str],
    /// What is made of the list of entry points, so that only one is compiled.
    pub(crate) entries: &'static [(&'static str, &'static str)],
    /// Launches, and compares with f64.
    pub(crate) check: fn(&Driver) -> Result<(), String>,
}

impl Case {
    /// The outcome under each schedule of the text with `changes` made to it.
    pub(crate) fn run(&self, changes: &[(&str, &str)]) -> Vec<(u64, Result<(), String>)> {
        let mut text = self.text();
        for (from, to) in changes {
            assert!(text.contains(from), "{}: the kernel no longer has `{from}`", self.name);
            text = text.replace(from, to);
        }
        let driver = Driver::build(self.name, &text);
        let mut outcomes = Vec::new();
        for schedule in SCHEDULES {
            driver.set("schedule", schedule);
            outcomes.push((schedule, (self.check)(&driver)));
            driver.recover();
        }
        outcomes
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for file in self.files {
            let mut part = fs::read_to_string(kernels_folder().join(file)).unwrap();
            for header in self.files.iter().filter_map(|file| file.strip_prefix("include/")) {
                part = part.replace(&format!("#include \"{header}\"\n"), "");
            }
            text += &part;
        }
        for (from, to) in self.entries {
            assert!(text.contains(from), "{}: the kernel no longer has `{from}`", self.name);
            text = text.replace(from, to);
        }
        text
    }
}

/// Numbers from -1 to 1 that are the same in every run, as bf16.
pub(crate) fn numbers(count: usize, seed: u64) -> Vec<u16> {
    let mut state = seed;
    let mut next = || {
        // A linear congruential generator (Knuth, MMIX).
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| (next().to_bits() >> 16) as u16).collect()
}

pub(crate) fn widened(v: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(v) << 16))
}

/// Whether `got` is within `error` of `wanted`, relative to 1 + |wanted|. NaN is not.
pub(crate) fn compare(got: &[f64], wanted: &[f64], error: f64) -> Result<(), String> {
    for (i, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        let far = (got - wanted).abs() / (1.0 + wanted.abs());
        if far.is_nan() || far > error {
            return Err(format!("value {i} is {got}, not {wanted}"));
        }
    }
    Ok(())
}

/// The status of the launch or of what ran, with what the emulator told.
pub(crate) fn finished(driver: &Driver, launched: i32) -> Result<(), String> {
    match (launched, driver.synchronize()) {
        (0, 0) => Ok(()),
        statuses => Err(format!("{statuses:?}: {}", driver.report())),
    }
}

/// No schedule may find anything wrong with the text as it is.
pub(crate) fn passes(case: &Case) {
    for (schedule, outcome) in case.run(&[]) {
        assert!(outcome.is_ok(), "schedule {schedule}: {outcome:?}");
    }
}

pub(crate) fn is_caught(case: &Case, changes: &[(&str, &str)]) {
    let outcomes = case.run(changes);
    let seen: Vec<_> = outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().err()).collect();
    assert!(!seen.is_empty(), "nothing was seen of {changes:?}");
}
