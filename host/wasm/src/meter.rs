//! How much of its time a call has used: the processor's time, because on a busy machine a thread stands still
//! for longer than a call may last, and that is not the policy's fault.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::runtime::TICK;

/// A call ends after so many times its limit, whatever it did.
const PATIENCE: u32 = 5;

pub(crate) struct Meter {
    began: Instant,
    usage: Usage,
}

impl Meter {
    /// A call begins that may use so much time.
    pub(crate) fn start(limit: Duration) -> Self {
        Self { began: Instant::now(), usage: Usage { limit, ..Usage::default() } }
    }

    /// Costs a glance at the clock until there was a tick, and a system call from then on.
    pub(crate) fn late(&mut self) -> bool {
        let wall = self.began.elapsed();
        wall >= TICK && self.usage.late(wall, processor())
    }

    /// Runs what the host does for itself.
    pub(crate) fn pause<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let (wall, busy) = (self.began.elapsed(), processor());
        self.usage.late(wall, busy);
        let result = work();
        self.usage.forgive(self.began.elapsed() - wall, processor().saturating_sub(busy));
        result
    }
}

/// Of the thread that asks.
fn processor() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[derive(Default)]
struct Usage {
    limit: Duration,
    /// Where the processor's clock stood when the call began. First looked at later, so that short calls pay nothing:
    /// until then a call is taken to have run all the time, but for no more than a tick.
    start: Option<Duration>,
    /// The host's own time.
    forgiven: Duration,
}

impl Usage {
    /// `wall` is since the call began, `busy` is where the processor's clock stands.
    fn late(&mut self, wall: Duration, busy: Duration) -> bool {
        let start = *self.start.get_or_insert(busy.saturating_sub(wall.min(TICK)));
        let wall = wall.saturating_sub(self.forgiven);
        wall >= self.limit
            && (busy.saturating_sub(start) >= self.limit || wall >= self.limit.saturating_mul(PATIENCE))
    }

    fn forgive(&mut self, wall: Duration, busy: Duration) {
        self.forgiven += wall;
        self.start = self.start.map(|start| start + busy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn usage() -> Usage {
        Usage { limit: ms(2), ..Usage::default() }
    }

    #[test]
    fn a_loop_ends_at_its_limit() {
        let mut usage = usage();
        assert!(!usage.late(ms(1), ms(101)));
        assert!(usage.late(ms(2), ms(102)));
    }

    #[test]
    fn standing_still_does_not_count_but_has_an_end() {
        let mut usage = usage();
        assert!(!usage.late(ms(6), ms(101)));
        assert!(!usage.late(ms(7), ms(101)));
        assert!(usage.late(ms(8), ms(102)));
        assert!(usage.late(ms(10), ms(101)));
    }

    #[test]
    fn the_host_s_own_time_does_not_count() {
        let mut usage = usage();
        assert!(!usage.late(ms(1), ms(101)));
        usage.forgive(ms(50), ms(40));
        assert!(!usage.late(ms(51), ms(141)));
        assert!(usage.late(ms(52), ms(142)));
    }
}
