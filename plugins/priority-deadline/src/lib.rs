//! The most urgent priority first, then the earliest deadline.
//!
//! Priorities are those of requests, lower is more urgent, as in vLLM's priority scheduling; within one, the
//! earliest deadline of a first token goes first (Liu and Layland 1973, doi 10.1145/321738.321743, show that
//! no other order meets deadlines that this one misses, on one processor). Waiting makes a request more
//! urgent by one priority each `ageing_ms`, so nobody starves: a request of priority p goes before all of
//! priority q that arrive (p - q + 1) · `ageing_ms` after it. Equal ones share as in `fcfs`.
//!
//! The same order decides who is preempted. Configuration: `{"ageing_ms": 2000}`, the default.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

use tokenmill_plugin_common::{Queue, config};
use tokenmill_policy::schedule::{Order, Scheduler, View};
use tokenmill_policy::{Error, Host};

/// See the crate's text.
#[derive(Default)]
pub struct PriorityDeadline {
    settings: Settings,
    /// By priority after ageing, then deadline.
    queue: Queue<(i64, u64)>,
}

#[derive(serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    ageing_ms: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { ageing_ms: 2000 }
    }
}

impl Scheduler for PriorityDeadline {
    fn configure(&mut self, text: &str, _: Host) -> Result<(), Error> {
        self.settings = config(text)?;
        if self.settings.ageing_ms == 0 {
            return Err(Error::BadConfig("ageing_ms must be at least 1".into()));
        }
        Ok(())
    }

    fn plan(&mut self, view: &dyn View, order: &mut Order) -> Result<(), Error> {
        let (now, ageing) = (view.now_us(), u64::from(self.settings.ageing_ms) * 1000);
        let (arrived, priority, deadline) = (view.arrived_us(), view.priority(), view.deadline_us());
        let rank = |i: usize| {
            let aged = now.saturating_sub(arrived[i]) / ageing;
            i64::from(priority[i]) - aged as i64
        };
        // Deadlines are of first tokens: what decodes has met or missed its own.
        self.queue.plan(
            view,
            order,
            |seq| Some((rank(seq.index), if seq.decodes() { u64::MAX } else { deadline[seq.index] })),
            |one, next| one == next,
        );
        Ok(())
    }
}

tokenmill_guest::export_scheduler!(PriorityDeadline);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokenmill_plugin_traffic::{Arrival, Traffic};
    use tokenmill_policy::{Fcfs, Silent};

    #[test]
    fn urgent_ones_come_first_and_early_deadlines_among_equals() {
        let mut traffic = Traffic::new(100, 9);
        let arrival =
            |priority, deadline_us| Arrival { priority, deadline_us, prompt: 60, ..Arrival::default() };
        for (priority, deadline) in [(0, None), (0, Some(50_000)), (-1, None), (0, Some(9_000))] {
            traffic.arrive(arrival(priority, deadline));
        }
        assert_eq!(traffic.plan(&mut PriorityDeadline::default()), [(2, 60), (3, 40)]);
    }

    #[test]
    fn without_priorities_and_deadlines_it_is_fcfs() {
        let (mut one, mut other) = (Traffic::new(64, 4), Traffic::new(64, 4));
        let mut policy = PriorityDeadline::default();
        for step in 0..200 {
            if step % 3 == 0 {
                let arrival =
                    Arrival { prompt: 40 + 13 * (step % 7), output: 5 + step % 9, ..Arrival::default() };
                assert_eq!(one.arrive(arrival), other.arrive(arrival));
            }
            let mut of_policy = one.step(&mut policy);
            let mut of_fcfs = other.step(&mut Fcfs::default());
            // Those that arrived earlier have aged, which changes only who is preempted.
            of_policy.sort_unstable();
            of_fcfs.sort_unstable();
            assert_eq!(of_policy, of_fcfs, "step {step}");
        }
    }

    #[test]
    fn nobody_starves() {
        let mut traffic = Traffic::new(64, 2);
        let mut policy = PriorityDeadline::default();
        policy.configure(r#"{"ageing_ms": 100}"#, Arc::new(Silent::default())).unwrap();
        let patient = traffic.arrive(Arrival { priority: 5, ..Arrival::default() });
        let mut late = Vec::new();
        while traffic.waits(patient) == Some(true) {
            let other = traffic.arrive(Arrival { output: 8, ..Arrival::default() });
            late.extend((traffic.now_us() > 600_000).then_some(other));
            traffic.step(&mut policy);
            assert!(
                late.iter().all(|&id| traffic.waits(id) == Some(true)),
                "overtaken by one 600 ms younger"
            );
            assert!(traffic.now_us() < 10_000_000, "it starves");
        }
        assert!(!late.is_empty(), "it did not wait for those that are more urgent");
    }

    #[test]
    fn a_deadline_matters_until_the_first_token() {
        let mut traffic = Traffic::new(100, 9);
        let mut policy = PriorityDeadline::default();
        traffic.arrive(Arrival { deadline_us: Some(1_000), ..Arrival::default() });
        traffic.step(&mut policy);
        traffic.arrive(Arrival { deadline_us: Some(90_000), ..Arrival::default() });
        assert_eq!(traffic.plan(&mut policy), [(1, 64), (0, 1)]);
    }

    #[test]
    fn what_is_wrong_with_the_configuration_is_said() {
        let why = |text| {
            let answer = PriorityDeadline::default().configure(text, Arc::new(Silent::default()));
            answer.err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!(why(""), "");
        assert_eq!(why(r#"{"ageing_ms": 0}"#), "policy configuration: ageing_ms must be at least 1");
        assert!(why(r#"{"ageing": 5}"#).contains("unknown field `ageing`"));
    }
}
