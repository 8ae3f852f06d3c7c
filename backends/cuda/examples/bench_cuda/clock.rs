//! Time on the device, by events around many calls.

use serde_json::{Value, json};
use tokenmill_cuda::{Cuda, Event, Gpu};

use crate::Operation;
use crate::inputs::Failure;

/// Of one measurement: long beside the clock's own half microsecond.
const MICROSECONDS: f64 = 20_000.0;

pub(crate) struct Clock {
    start: Event,
    end: Event,
}

impl Clock {
    pub(crate) fn new(gpu: &Gpu) -> Result<Self, Failure> {
        Ok(Self { start: gpu.timer()?, end: gpu.timer()? })
    }

    /// How many calls a measurement has; warms up on the way.
    pub(crate) fn calls(&self, device: &mut Cuda, operation: &mut dyn Operation) -> Result<usize, Failure> {
        self.time(device, operation, 1)?;
        let once = self.time(device, operation, 2)?;
        Ok(((MICROSECONDS / once.max(1.0)) as usize).clamp(1, 1000))
    }

    /// Microseconds of one of `count` calls.
    pub(crate) fn time(
        &self,
        device: &mut Cuda,
        operation: &mut dyn Operation,
        count: usize,
    ) -> Result<f64, Failure> {
        self.start.record()?;
        for turn in 0..count {
            operation.run(device, turn)?;
        }
        self.end.record()?;
        self.end.wait()?;
        Ok(f64::from(self.end.milliseconds_since(&self.start)?) * 1e3 / count as f64)
    }
}

/// Median and spread.
pub(crate) fn summary(all: &[f64]) -> Value {
    let mut sorted = all.to_vec();
    sorted.sort_by(f64::total_cmp);
    let round = |value: f64| (value * 1e3).round() / 1e3;
    let Some((low, high)) = sorted.first().zip(sorted.last()) else { return Value::Null };
    let (middle, n) = (sorted.len() / 2, sorted.len());
    let median = if n % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
    json!({ "median": round(median), "min": round(*low), "max": round(*high), "n": n })
}
