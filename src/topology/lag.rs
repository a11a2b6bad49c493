//! How far behind a replica is, in bytes and in time. Pure.
//!
//! Time is counted on this machine's clock alone: what a replica has not replayed is as old as the first look that found it written. So a primary that is idle
//! makes no replica late, however long ago its last commit was, and nobody's clocks are compared.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::answer::Lsn;

/// Looks at the primary that are remembered. When there are more, every second one of the older half goes: what they say gets coarser with age.
const MOST: usize = 256;

/// Where a shard's primary was, and when it was asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Written(VecDeque<(Instant, Lsn)>);

/// What a replica has still to replay; `None`: not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lag {
    pub bytes: Option<u64>,
    pub time: Option<Duration>,
}

/// From where on a replica is too far behind.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    pub bytes: Option<u64>,
    pub time: Option<Duration>,
}

/// Whether a replica keeps up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Pursuit {
    #[default]
    Close,
    /// Until it is below half of the limits.
    Lagging,
}

impl Written {
    /// Another primary's log may go another way.
    pub fn forget(&mut self) {
        self.0.clear();
    }

    /// `slowest`: the least that a replica has replayed; what lies before it is of no more use.
    pub fn note(&mut self, asked: Instant, lsn: Lsn, slowest: Option<Lsn>) {
        if self.0.back().is_some_and(|(last, _)| *last >= asked) {
            return;
        }
        self.0.push_back((asked, lsn));
        let slowest = slowest.unwrap_or(lsn);
        while self.0.len() > 1 && self.0.front().is_some_and(|(_, lsn)| *lsn <= slowest) {
            self.0.pop_front();
        }
        if self.0.len() > MOST {
            let mut place = 0;
            self.0.retain(|_| {
                place += 1;
                place > MOST / 2 || place % 2 == 1
            });
        }
    }

    pub fn lag(&self, replayed: Lsn, now: Instant) -> Lag {
        let Some((_, last)) = self.0.back() else {
            return Lag::default();
        };
        let missing = self.0.iter().find(|(_, lsn)| *lsn > replayed);
        Lag {
            // The answers were given at slightly different times, so the replica may seem ahead.
            bytes: Some(last.0.saturating_sub(replayed.0)),
            time: Some(missing.map_or(Duration::ZERO, |(asked, _)| now.duration_since(*asked))),
        }
    }
}

impl Pursuit {
    /// What is not known changes nothing.
    pub fn next(self, lag: Lag, limits: Limits) -> Pursuit {
        let part: u32 = match self {
            Pursuit::Close => 1,
            Pursuit::Lagging => 2,
        };
        let over_bytes = match (lag.bytes, limits.bytes) {
            (Some(bytes), Some(limit)) => bytes > limit / u64::from(part),
            (None, Some(_)) => self == Pursuit::Lagging,
            (_, None) => false,
        };
        let over_time = match (lag.time, limits.time) {
            (Some(time), Some(limit)) => time > limit / part,
            (None, Some(_)) => self == Pursuit::Lagging,
            (_, None) => false,
        };
        match over_bytes || over_time {
            true => Pursuit::Lagging,
            false => Pursuit::Close,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(number: f64) -> Duration {
        Duration::from_secs_f64(number)
    }

    #[test]
    fn time_runs_from_the_look_that_found_more() {
        let start = Instant::now();
        let at = |number| start + seconds(number);
        let mut written = Written::default();
        assert_eq!(written.lag(Lsn(1), start), Lag::default());
        let lag = |written: &Written, replayed, now| {
            let lag = written.lag(Lsn(replayed), at(now));
            (
                lag.bytes.expect("known"),
                lag.time.expect("known").as_secs_f64(),
            )
        };
        // Idle: nothing is missing, however much time goes by.
        for second in 0..20 {
            written.note(at(f64::from(second)), Lsn(100), Some(Lsn(100)));
        }
        assert_eq!(lag(&written, 100, 19.0), (0, 0.0));
        assert_eq!(lag(&written, 120, 19.0), (0, 0.0));
        written.note(at(20.0), Lsn(200), Some(Lsn(100)));
        written.note(at(21.0), Lsn(300), Some(Lsn(100)));
        assert_eq!(lag(&written, 100, 21.5), (200, 1.5));
        assert_eq!(lag(&written, 199, 21.5), (101, 1.5));
        assert_eq!(lag(&written, 200, 21.5), (100, 0.5));
        assert_eq!(lag(&written, 300, 21.5), (0, 0.0));
        // An answer that was late, and another primary.
        written.note(at(20.5), Lsn(900), None);
        assert_eq!(lag(&written, 300, 21.5), (0, 0.0));
        written.forget();
        assert_eq!(written.lag(Lsn(100), at(22.0)), Lag::default());
    }

    #[test]
    fn the_memory_is_bounded_and_keeps_its_beginning() {
        let start = Instant::now();
        let mut written = Written::default();
        for second in 0..10_000 {
            let lsn = Lsn(100 + second);
            written.note(start + Duration::from_secs(second), lsn, Some(Lsn(99)));
            assert!(written.0.len() <= MOST);
        }
        let lag = written.lag(Lsn(99), start + Duration::from_secs(10_000));
        assert_eq!(lag.time, Some(Duration::from_secs(10_000)));
        // Ten looks ago is still exact.
        let lag = written.lag(Lsn(100 + 9990), start + Duration::from_secs(10_000));
        assert_eq!(lag.time, Some(Duration::from_secs(9)));
    }

    #[test]
    fn a_replica_returns_below_half_of_the_limit() {
        let limits = Limits {
            bytes: Some(1000),
            time: Some(seconds(10.0)),
        };
        let mut pursuit = Pursuit::default();
        for (bytes, time, wanted) in [
            (Some(1000), Some(10.0), Pursuit::Close),
            (Some(1001), Some(0.0), Pursuit::Lagging),
            (Some(501), Some(0.0), Pursuit::Lagging),
            (None, None, Pursuit::Lagging),
            (Some(500), Some(5.1), Pursuit::Lagging),
            (Some(500), Some(5.0), Pursuit::Close),
            (None, None, Pursuit::Close),
            (Some(0), Some(10.1), Pursuit::Lagging),
            (Some(0), Some(0.0), Pursuit::Close),
        ] {
            let lag = Lag {
                bytes,
                time: time.map(seconds),
            };
            pursuit = pursuit.next(lag, limits);
            assert_eq!(pursuit, wanted, "{bytes:?} {time:?}");
        }
        let lag = Lag {
            bytes: Some(u64::MAX),
            time: Some(seconds(1e6)),
        };
        let off = Limits::default();
        assert_eq!(Pursuit::Close.next(lag, off), Pursuit::Close);
        assert_eq!(Pursuit::Lagging.next(lag, off), Pursuit::Close);
    }
}
