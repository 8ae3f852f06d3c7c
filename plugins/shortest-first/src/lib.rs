//! The prompt with the fewest tokens left to compute first, so that short requests do not wait behind long ones.
//!
//! Shortest remaining processing time (Schrage 1968, doi 10.1287/opre.16.3.687) gives the least mean time in
//! the system; of a request only the prompt's length is known beforehand, so that is what counts here. A
//! prompt that waits counts as shorter, by `tokens_per_second`, so nobody starves: one of n tokens goes before
//! all that arrive n / `tokens_per_second` seconds after it.
//!
//! What decodes keeps decoding. Configuration: `{"tokens_per_second": 2000}`, the default.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

use tokenmill_plugin_common::{Queue, config};
use tokenmill_policy::schedule::{Order, Scheduler, View};
use tokenmill_policy::{Error, Host};

/// See the crate's text.
#[derive(Default)]
pub struct ShortestFirst {
    settings: Settings,
    /// By tokens left, in millionths, less what waiting is worth.
    queue: Queue<i64>,
}

#[derive(serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    tokens_per_second: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { tokens_per_second: 2000 }
    }
}

impl Scheduler for ShortestFirst {
    fn configure(&mut self, text: &str, _: Host) -> Result<(), Error> {
        self.settings = config(text)?;
        if self.settings.tokens_per_second == 0 {
            return Err(Error::BadConfig("tokens_per_second must be at least 1".into()));
        }
        Ok(())
    }

    fn plan(&mut self, view: &dyn View, order: &mut Order) -> Result<(), Error> {
        let (now, arrived) = (view.now_us(), view.arrived_us());
        let speed = i64::from(self.settings.tokens_per_second);
        self.queue.plan(
            view,
            order,
            |seq| {
                if seq.decodes() {
                    return Some(i64::MIN);
                }
                let waited = now.saturating_sub(arrived[seq.index]) as i64;
                Some(i64::from(seq.pending) * 1_000_000 - waited.saturating_mul(speed))
            },
            |_, _| false,
        );
        Ok(())
    }
}

tokenmill_guest::export_scheduler!(ShortestFirst);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokenmill_plugin_traffic::{Arrival, Traffic};
    use tokenmill_policy::{Fcfs, Silent};

    fn arrival(prompt: u32) -> Arrival {
        Arrival { prompt, ..Arrival::default() }
    }

    #[test]
    fn what_decodes_goes_on_and_the_shortest_prompt_follows() {
        let mut traffic = Traffic::new(100, 9);
        let mut policy = ShortestFirst::default();
        traffic.arrive(arrival(30));
        traffic.step(&mut policy);
        for prompt in [500, 80, 10] {
            traffic.arrive(arrival(prompt));
        }
        assert_eq!(traffic.plan(&mut policy), [(0, 1), (3, 10), (2, 80), (1, 9)]);
    }

    #[test]
    fn a_long_prompt_does_not_starve() {
        let mut traffic = Traffic::new(60, 4);
        let mut policy = ShortestFirst::default();
        policy.configure(r#"{"tokens_per_second": 1000}"#, Arc::new(Silent::default())).unwrap();
        let long = traffic.arrive(arrival(640));
        while traffic.waits(long) == Some(true) {
            traffic.arrive(Arrival { prompt: 60, output: 1, ..Arrival::default() });
            traffic.step(&mut policy);
            assert!(traffic.now_us() <= 650_000, "it waits for more than 640 tokens' worth");
        }
        assert!(traffic.now_us() > 500_000, "it did not wait for those that are shorter");
    }

    #[test]
    fn the_mean_wait_is_shorter_than_that_of_fcfs() {
        let wait = |policy: &mut dyn Scheduler| {
            let mut traffic = Traffic::new(100, 16);
            for prompt in [2000, 1500, 1000, 500, 100] {
                traffic.arrive(Arrival { output: 1, ..arrival(prompt) });
            }
            let mut waited = 0;
            while traffic.unfinished() > 0 {
                traffic.step(policy);
                waited += traffic.unfinished();
            }
            waited
        };
        // They end after 1, 6, 16, 31 and 51 steps.
        assert_eq!(wait(&mut ShortestFirst::default()), 5 + 15 + 30 + 50);
        let fcfs = wait(&mut Fcfs::default());
        assert!(fcfs > 120, "{fcfs}");
    }
}
