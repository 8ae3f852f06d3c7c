//! Whether the engine still moves. A device that hangs raises no error; all one can see is that no step ends.

use crate::app::Server;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokenmill_engine::Stats;

/// Steps of the recent length that an engine may take for one.
const PATIENCE: u32 = 20;

struct Watchdog {
    limit: Duration,
    /// When a step last ended, or there was nothing to do.
    moved: Instant,
    steps: u64,
    step_us: u64,
    /// Time of a step lately: the longest one, forgotten by and by.
    recent: Duration,
}

impl Watchdog {
    fn new(limit: Duration, now: Instant) -> Self {
        Self { limit, moved: now, steps: 0, step_us: 0, recent: Duration::ZERO }
    }

    /// Takes note of the counters; true if there is work and no step ended for too long.
    fn look(&mut self, now: Instant, stats: &Stats) -> bool {
        let steps = stats.steps.saturating_sub(self.steps);
        if let Some(each) = stats.step_us.saturating_sub(self.step_us).checked_div(steps) {
            self.recent = Duration::from_micros(each).max(self.recent * 7 / 8);
            (self.steps, self.step_us) = (stats.steps, stats.step_us);
        }
        let has_work = stats.running + stats.waiting > 0 || stats.waiting_tokens > 0;
        if steps > 0 || !has_work || stats.lost {
            self.moved = now;
        }
        now.duration_since(self.moved) > self.limit.max(self.recent * PATIENCE)
    }
}

/// Keeps `server.hung()` true to the engine, for ever.
pub(crate) async fn watch(server: Arc<Server>) {
    let limit = server.app.limits.hang_time;
    let mut dog = Watchdog::new(limit, Instant::now());
    loop {
        tokio::time::sleep(limit / 20).await;
        let hung = dog.look(Instant::now(), &server.app.engine.stats());
        if hung != server.hung() {
            server.set_hung(hung);
            let still_s = dog.moved.elapsed().as_secs();
            match hung {
                true => tracing::error!(still_s, "no step of the engine ends; /health says 503"),
                false => tracing::warn!("the engine moves again"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn only_work_without_steps_is_a_hang() {
        let start = Instant::now();
        let mut dog = Watchdog::new(10 * S, start);
        let idle = Stats::default();
        assert!(!dog.look(start + 100 * S, &idle), "nothing to do");
        let busy = Stats { running: 1, ..idle };
        assert!(!dog.look(start + 110 * S, &busy));
        assert!(dog.look(start + 111 * S, &busy));
        let moved = Stats { steps: 1, ..busy };
        assert!(!dog.look(start + 112 * S, &moved), "a step ended");
        assert!(dog.look(start + 123 * S, &Stats { running: 0, waiting_tokens: 5, ..moved }), "a full inbox");
        assert!(
            !dog.look(start + 124 * S, &Stats { lost: true, ..moved }),
            "a lost device is another matter"
        );
    }

    #[test]
    fn long_steps_take_longer_to_count_as_a_hang() {
        let start = Instant::now();
        let mut dog = Watchdog::new(10 * S, start);
        let busy = Stats { running: 1, steps: 4, step_us: 8_000_000, ..Stats::default() };
        assert!(!dog.look(start, &busy));
        assert!(!dog.look(start + 40 * S, &busy), "20 steps of 2 s");
        assert!(dog.look(start + 41 * S, &busy));
    }
}
