//! Time on the device, by events around many calls.

use serde_json::{Value, json};
use tokenmill_cuda::{Cuda, Event, Gpu, Graph};

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
        Ok(self.span(|| (0..count).try_for_each(|turn| operation.run(device, turn)))? / count as f64)
    }

    /// Microseconds of one of `count` calls that were recorded.
    pub(crate) fn time_recorded(&self, graph: &Graph, count: usize) -> Result<f64, Failure> {
        Ok(self.span(|| Ok(graph.launch()?))? / count as f64)
    }

    fn span(&self, work: impl FnOnce() -> Result<(), Failure>) -> Result<f64, Failure> {
        self.start.record()?;
        work()?;
        self.end.record()?;
        self.end.wait()?;
        Ok(f64::from(self.end.milliseconds_since(&self.start)?) * 1e3)
    }
}

/// `count` calls of an operation that has run before, and one run of them.
pub(crate) fn record(
    device: &mut Cuda,
    operation: &mut dyn Operation,
    count: usize,
) -> Result<Graph, Failure> {
    let graph = device.record(|device| (0..count).try_for_each(|turn| operation.run(device, turn)))?;
    graph.launch()?;
    Ok(graph)
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
