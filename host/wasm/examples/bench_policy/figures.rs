//! Medians, spreads, and goals.

use serde_json::{Value, json};

/// Of a sorted copy; `percent` is at most 100.
pub(crate) fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) * percent / 100).copied().unwrap_or(f64::NAN)
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
    (sorted[low] + sorted[high]) / 2.0
}

pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

pub(crate) fn spread(values: &[f64]) -> Value {
    let at = |percent| round(percentile(values, percent));
    json!({ "median": round(median(values)), "min": at(0), "max": at(100), "n": values.len() })
}

/// A figure that should be at most `goal`: met if its median is.
pub(crate) fn at_most(values: &[f64], goal: f64) -> Value {
    with_goal(values, goal, median(values) <= goal)
}

pub(crate) fn at_least(values: &[f64], goal: f64) -> Value {
    with_goal(values, goal, median(values) >= goal)
}

fn with_goal(values: &[f64], goal: f64, met: bool) -> Value {
    let mut figure = spread(values);
    figure["goal"] = json!(goal);
    figure["met"] = json!(met);
    figure
}

/// Five significant digits: a ratio near one needs them.
pub(crate) fn round(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let unit = 10f64.powf(value.abs().log10().floor() - 4.0);
    format!("{:.7}", (value / unit).round() * unit).parse().unwrap()
}
