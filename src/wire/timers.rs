//! Time limits on threads whose own runtime has no timers: a runtime that keeps a wheel of timers looks at the clock
//! and at the wheel each time it waits, which for a worker is twice a statement.

use std::fmt;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, Interval, MissedTickBehavior, Timeout};

/// The timers of another runtime. What they wake runs where it was polled.
#[derive(Clone)]
pub struct Timers(Handle);

impl Timers {
    /// Those of the runtime that this is called on; it must have some.
    pub fn here() -> Timers {
        Timers(Handle::current())
    }

    /// Cuts a future off after a time.
    pub fn timeout<F: Future>(&self, after: Duration, future: F) -> Timeout<F> {
        let _there = self.0.enter();
        tokio::time::timeout(after, future)
    }

    /// Cuts a future off at a time.
    pub fn timeout_at<F: Future>(&self, deadline: Instant, future: F) -> Timeout<F> {
        let _there = self.0.enter();
        tokio::time::timeout_at(deadline, future)
    }

    /// Ticks from now on; one that comes late moves those after it.
    pub fn interval(&self, period: Duration) -> Interval {
        let _there = self.0.enter();
        let mut interval = tokio::time::interval(period);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval
    }
}

impl fmt::Debug for Timers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Timers")
    }
}
