//! The clock of a policy, which has none. llguidance only counts how long masks take.

use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant;

impl Instant {
    pub fn now() -> Self {
        Self
    }

    pub fn elapsed(&self) -> Duration {
        Duration::ZERO
    }

    pub fn duration_since(&self, _: Self) -> Duration {
        Duration::ZERO
    }
}

impl std::ops::Sub for Instant {
    type Output = Duration;

    fn sub(self, _: Self) -> Duration {
        Duration::ZERO
    }
}
