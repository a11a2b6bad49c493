//! A point in time by a clock that all processes of this machine share until its next boot, and that goes on while the machine sleeps.
//!
//! `std::time::Instant` stands still during a suspend, so a lease would seem held behind one.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_BOOTTIME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(pub u64);

impl Moment {
    pub fn now() -> Moment {
        let time = clock_gettime(ClockId::Boottime);
        // Neither is negative for this clock; 64 bits last for 584 years from the boot.
        Moment(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }

    pub fn after(self, time: Duration) -> Moment {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Moment(self.0.saturating_add(nanoseconds))
    }

    /// From an earlier moment; zero when it is a later one.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
