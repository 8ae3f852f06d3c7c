//! How much of its time a call has used: the processor's time, because on a busy machine a thread stands still
//! for longer than a call may last, and that is not the policy's fault.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::runtime::TICK;

/// A call ends after so many times its limit, whatever it did.
const PATIENCE: u32 = 5;

/// Work of the host that is shorter is taken to keep a processor busy: to look would cost a system call each time.
const SHORT: Duration = Duration::from_micros(50);

pub(crate) struct Meter {
    began: Instant,
    usage: Usage,
}

impl Meter {
    /// A call began then that may use so much time.
    pub(crate) fn start(began: Instant, limit: Duration) -> Self {
        Self { began, usage: Usage { limit, next: TICK, ..Usage::default() } }
    }

    /// Costs a glance at the clock, and a system call once a tick.
    pub(crate) fn late(&mut self) -> bool {
        let wall = self.began.elapsed();
        wall >= self.usage.next && self.usage.late(wall, processor())
    }

    /// Runs what the host does for itself.
    pub(crate) fn pause<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let before = self.began.elapsed();
        let result = work();
        self.usage.forgive(before, self.began.elapsed(), processor);
        result
    }
}

/// Of the thread that asks.
fn processor() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Walls are times since the call began.
#[derive(Default)]
struct Usage {
    limit: Duration,
    /// The wall at which the processor's clock is worth another look.
    next: Duration,
    /// The guest's own time up to the last look.
    busy: Duration,
    /// The last look: the guest's own wall then, and where the processor's clock stood. There is none at first, so that
    /// short calls pay nothing: until then a call is taken to have run all the time, but for no more than a tick.
    look: Option<(Duration, Duration)>,
    /// The host's own time, and that since the last look.
    forgiven: Duration,
    lately: Duration,
}

impl Usage {
    /// `processor` is where the processor's clock stands.
    fn late(&mut self, wall: Duration, processor: Duration) -> bool {
        let own = wall.saturating_sub(self.forgiven);
        self.busy += match self.look {
            Some((_, before)) => processor.saturating_sub(before).saturating_sub(self.lately),
            None => own.min(TICK),
        };
        self.looked(wall, processor);
        own >= self.limit && (self.busy >= self.limit || own >= self.limit.saturating_mul(PATIENCE))
    }

    /// The host worked from one wall to another. After a long time the guest is taken to have run whenever the host did
    /// not, for the host may have waited without a processor.
    fn forgive(&mut self, from: Duration, to: Duration, processor: impl FnOnce() -> Duration) {
        let took = to.saturating_sub(from);
        if took >= SHORT {
            let (before, _) = self.look.unwrap_or_default();
            self.busy += from.saturating_sub(self.forgiven).saturating_sub(before);
        }
        self.forgiven += took;
        self.lately += took;
        if took >= SHORT {
            self.looked(to, processor());
        }
    }

    fn looked(&mut self, wall: Duration, processor: Duration) {
        self.look = Some((wall.saturating_sub(self.forgiven), processor));
        self.lately = Duration::ZERO;
        self.next = wall + TICK / 2;
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
        let mut usage = self::usage();
        assert!(!usage.late(ms(9), ms(101)));
        assert!(usage.late(ms(10), ms(101)));
    }

    #[test]
    fn the_host_s_own_time_does_not_count() {
        let mut usage = usage();
        assert!(!usage.late(ms(1), ms(101)));
        usage.forgive(ms(1), ms(51), || ms(141));
        assert!(!usage.late(ms(51), ms(141)));
        assert!(usage.late(ms(52), ms(142)));
    }

    /// The guest, too, ran between two looks at the clock.
    #[test]
    fn work_of_the_host_hides_no_work_of_the_guest() {
        let us = Duration::from_micros;
        let (mut usage, mut wall) = (usage(), Duration::ZERO);
        for _ in 0..100 {
            // 19 microseconds of the guest, one of the host.
            assert!(!usage.late(wall, wall), "{wall:?}");
            usage.forgive(wall + us(19), wall + us(20), || wall + us(20));
            wall += us(20);
        }
        assert!(!usage.late(ms(2), ms(2)));
        assert!(usage.late(us(2100), us(2100)));
        // Long waits, without a processor, leave the guest what it used before them.
        let mut usage = self::usage();
        usage.forgive(us(900), ms(10), || us(950));
        assert!(!usage.late(ms(10) + us(1000), us(1950)));
        assert!(usage.late(ms(10) + us(1100), us(2050)));
    }
}
