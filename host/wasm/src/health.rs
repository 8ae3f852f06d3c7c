//! How a policy does: counted by every adapter of it, read by the operator.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::{Failure, Reason};

/// Failures one after the other that end a policy's service, and the fewest that more than one in so many calls of
/// the last minute are.
const PATIENCE: u32 = 5;
const RARE: u64 = 100;
/// Half of what counts as the last minute.
const HALF: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, Default, Serialize)]
pub struct Health {
    /// Calls of `plan` and `pick`.
    pub calls: u64,
    /// Time spent in them, the device's included.
    pub busy_us: u64,
    /// Calls without a decision.
    pub failures: BTreeMap<Reason, u64>,
    /// Failures since the last good answer; those that the policy declares itself do not count, and neither do those
    /// of a step in which another tenant got its answer.
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
pub(crate) struct Record(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    health: Health,
    busy: Duration,
    recent: Recent,
    alarm: Option<Alarm>,
}

impl Record {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn snapshot(&self) -> Health {
        let counts = self.lock();
        Health { busy_us: counts.busy.as_micros() as u64, ..counts.health.clone() }
    }

    pub(crate) fn set_alarm(&self, alarm: Alarm) {
        self.lock().alarm = Some(alarm);
    }

    /// Forgets what was counted so far.
    pub(crate) fn reset(&self) {
        let mut counts = self.lock();
        counts.health = Health { instances: counts.health.instances, ..Health::default() };
        counts.busy = Duration::ZERO;
        counts.recent = Recent::default();
    }

    pub(crate) fn made_instance(&self) {
        self.lock().health.instances += 1;
    }

    /// Calls that began then have ended now.
    pub(crate) fn called(&self, calls: u64, began: Instant) {
        let now = Instant::now();
        let mut counts = self.lock();
        counts.health.calls += calls;
        counts.busy += now - began;
        counts.recent.called(calls, now);
    }

    /// An answer was applied.
    pub(crate) fn good(&self) {
        self.lock().health.in_a_row = 0;
    }

    /// There was no decision for one tenant, and one for another.
    pub(crate) fn failed(&self, failure: &Failure) {
        self.lock().health.count(failure);
    }

    /// There was no decision for anybody.
    pub(crate) fn lost(&self, failure: &Failure) {
        let mut counts = self.lock();
        counts.health.count(failure);
        if failure.reason == Reason::Undecided {
            return;
        }
        counts.health.in_a_row += 1;
        let often = counts.recent.lost();
        if counts.health.quarantined || (counts.health.in_a_row < PATIENCE && !often) {
            return;
        }
        counts.health.quarantined = true;
        let alarm = counts.alarm.take();
        drop(counts);
        if let Some(alarm) = alarm {
            alarm();
        }
    }

    /// Whether the policy may be called, after its last answer was applied or there was none.
    pub(crate) fn admits(&self, applied: bool) -> bool {
        let mut counts = self.lock();
        if applied {
            counts.health.in_a_row = 0;
        }
        !counts.health.quarantined
    }
}

impl Health {
    fn count(&mut self, failure: &Failure) {
        *self.failures.entry(failure.reason).or_default() += 1;
        self.last_failure = Some(failure.to_string());
    }
}

/// Calls and failures of this half minute and of the one before: between half a minute and a whole one.
#[derive(Default)]
struct Recent {
    began: Option<Instant>,
    calls: [u64; 2],
    lost: [u64; 2],
}

impl Recent {
    fn called(&mut self, calls: u64, now: Instant) {
        let began = *self.began.get_or_insert(now);
        let passed = now.saturating_duration_since(began);
        if passed >= HALF {
            let only_one = passed < 2 * HALF;
            let before = |all: [u64; 2]| [0, if only_one { all[0] } else { 0 }];
            (self.calls, self.lost) = (before(self.calls), before(self.lost));
            self.began = Some(now);
        }
        self.calls[0] += calls;
    }

    /// One more call failed; whether that is too often.
    fn lost(&mut self) -> bool {
        self.lost[0] += 1;
        let (calls, lost): (u64, u64) = (self.calls.iter().sum(), self.lost.iter().sum());
        lost >= PATIENCE.into() && lost * RARE > calls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the last of some failures is one too many, with so many calls and so much time before each.
    fn too_often(failures: u64, calls: u64, apart: Duration) -> bool {
        let (mut recent, start) = (Recent::default(), Instant::now());
        let mut fail = |nth: u64| {
            recent.called(calls, start + apart * nth as u32);
            recent.lost()
        };
        (0..failures).map(&mut fail).last().unwrap_or_default()
    }

    #[test]
    fn one_failure_in_a_hundred_calls_is_too_often() {
        let second = Duration::from_secs(1);
        assert!(too_often(5, 99, second) && too_often(5, 1, second));
        assert!(!too_often(4, 99, second), "too few to tell");
        assert!(!too_often(5, 100, second) && !too_often(30, 101, second));
    }

    #[test]
    fn what_was_long_ago_does_not_count() {
        assert!(!too_often(50, 10, Duration::from_secs(61)), "one a minute");
        assert!(!too_often(50, 10, Duration::from_secs(16)), "four a minute");
        assert!(too_often(50, 10, Duration::from_secs(5)));
    }

    #[test]
    fn a_policy_that_answers_in_between_is_put_in_quarantine_all_the_same() {
        let (record, began) = (Record::default(), Instant::now());
        let trap = Failure::new(Reason::Trap, "it");
        for nth in 1..=9 {
            record.called(40, began);
            record.lost(&trap);
            assert_eq!(!record.admits(false), nth >= 5, "failure {nth}");
            record.good();
        }
        let tenant = Record::default();
        for _ in 0..9 {
            tenant.called(2, began);
            tenant.failed(&trap);
        }
        assert!(tenant.admits(false) && tenant.snapshot().failures[&Reason::Trap] == 9);
    }
}
