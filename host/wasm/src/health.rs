//! How a policy does: counted by every adapter of it, read by the operator.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

use crate::error::{Failure, Reason};

/// Failures one after the other that end a policy's service.
pub(crate) const PATIENCE: u32 = 5;

#[derive(Clone, Debug, Default, Serialize)]
pub struct Health {
    /// Calls of `plan` and `pick`.
    pub calls: u64,
    /// Time spent in them, the device's included.
    pub busy_us: u64,
    /// Calls without a decision.
    pub failures: BTreeMap<Reason, u64>,
    /// Failures since the last good answer; those that the policy declares itself do not count.
    pub in_a_row: u32,
    /// It is not called any more.
    pub quarantined: bool,
    /// Instances that were made.
    pub instances: u64,
    pub last_failure: Option<String>,
}

type Alarm = Box<dyn FnOnce() + Send>;

/// Counts, and raises the alarm when a policy is put in quarantine.
#[derive(Default)]
pub(crate) struct Record(Mutex<(Health, Duration, Option<Alarm>)>);

impl Record {
    fn lock(&self) -> MutexGuard<'_, (Health, Duration, Option<Alarm>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn snapshot(&self) -> Health {
        let record = self.lock();
        Health { busy_us: record.1.as_micros() as u64, ..record.0.clone() }
    }

    pub(crate) fn set_alarm(&self, alarm: Alarm) {
        self.lock().2 = Some(alarm);
    }

    /// Forgets what was counted so far.
    pub(crate) fn reset(&self) {
        let mut record = self.lock();
        record.0 = Health { instances: record.0.instances, ..Health::default() };
        record.1 = Duration::ZERO;
    }

    pub(crate) fn made_instance(&self) {
        self.lock().0.instances += 1;
    }

    pub(crate) fn called(&self, calls: u64, busy: Duration) {
        let mut record = self.lock();
        record.0.calls += calls;
        record.1 += busy;
    }

    /// An answer was applied.
    pub(crate) fn good(&self) {
        self.lock().0.in_a_row = 0;
    }

    pub(crate) fn failed(&self, failure: &Failure) {
        let mut record = self.lock();
        let health = &mut record.0;
        *health.failures.entry(failure.reason).or_default() += 1;
        health.last_failure = Some(failure.to_string());
        if failure.reason == Reason::Undecided {
            return;
        }
        health.in_a_row += 1;
        if health.in_a_row < PATIENCE || health.quarantined {
            return;
        }
        health.quarantined = true;
        let alarm = record.2.take();
        drop(record);
        if let Some(alarm) = alarm {
            alarm();
        }
    }

    pub(crate) fn quarantined(&self) -> bool {
        self.lock().0.quarantined
    }
}
