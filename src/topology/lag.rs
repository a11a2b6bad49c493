//! How far behind a replica is, in bytes and in time. Pure.
//!
//! Time is counted on this machine's clock alone: what a replica has not replayed is as old as the first look that found it written. So a primary that is idle
//! makes no replica late, however long ago its last commit was, and nobody's clocks are compared.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::answer::Lsn;

/// Looks at the primary that are remembered. When there are more, every second one of the older half goes: what they say gets coarser with age.
const MOST: usize = 256;

/// Most ends of records that wait to be written.
const MOST_ENDS: usize = 64;

/// Where a shard's primary was, and when it was asked.
///
/// What is flushed may end in the middle of a record: a transaction that is open and idle can leave it so for hours, and no replica gets past the record's
/// beginning. Where a record ends is where the primary was about to insert at some look; so only those places count, from the first look
/// that finds them flushed.
#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    marks: VecDeque<(Instant, Lsn)>,
    /// Ends of records that were not flushed yet, in their order.
    ends: VecDeque<Lsn>,
    flushed: Option<Lsn>,
}

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
        *self = Written::default();
    }

    /// `slowest`: the least that a replica has replayed; what lies before it is of no more use.
    pub fn note(&mut self, asked: Instant, flushed: Lsn, inserted: Lsn, slowest: Option<Lsn>) {
        if self.marks.back().is_some_and(|(last, _)| *last >= asked) {
            return;
        }
        self.flushed = Some(flushed);
        if self.ends.back().is_none_or(|last| *last < inserted) && self.ends.len() < MOST_ENDS {
            self.ends.push_back(inserted);
        }
        let mut end = None;
        while self.ends.front().is_some_and(|next| *next <= flushed) {
            end = self.ends.pop_front();
        }
        let last = self.marks.back().map_or(Lsn(0), |(_, lsn)| *lsn);
        self.marks.push_back((asked, end.unwrap_or(last)));
        let slowest = slowest.unwrap_or(flushed);
        while self.marks.len() > 1 && self.marks.front().is_some_and(|(_, lsn)| *lsn <= slowest) {
            self.marks.pop_front();
        }
        if self.marks.len() > MOST {
            let mut place = 0;
            self.marks.retain(|_| {
                place += 1;
                place > MOST / 2 || place % 2 == 1
            });
        }
    }

    pub fn lag(&self, replayed: Lsn, now: Instant) -> Lag {
        let Some(flushed) = self.flushed else {
            return Lag::default();
        };
        let missing = self.marks.iter().find(|(_, lsn)| *lsn > replayed);
        Lag {
            // The answers were given at slightly different times, so the replica may seem ahead.
            bytes: Some(flushed.0.saturating_sub(replayed.0)),
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
        let note = |written: &mut Written, now, lsn| {
            written.note(at(now), Lsn(lsn), Lsn(lsn), Some(Lsn(100)));
        };
        for second in 0..20 {
            note(&mut written, f64::from(second), 100);
        }
        assert_eq!(lag(&written, 100, 19.0), (0, 0.0));
        assert_eq!(lag(&written, 120, 19.0), (0, 0.0));
        note(&mut written, 20.0, 200);
        note(&mut written, 21.0, 300);
        assert_eq!(lag(&written, 100, 21.5), (200, 1.5));
        assert_eq!(lag(&written, 199, 21.5), (101, 1.5));
        assert_eq!(lag(&written, 200, 21.5), (100, 0.5));
        assert_eq!(lag(&written, 300, 21.5), (0, 0.0));
        // An answer that was late, and another primary.
        note(&mut written, 20.5, 900);
        assert_eq!(lag(&written, 300, 21.5), (0, 0.0));
        written.forget();
        assert_eq!(written.lag(Lsn(100), at(22.0)), Lag::default());
    }

    /// An open transaction has written, and half of its last record is flushed.
    #[test]
    fn half_a_record_is_nobody_s_fault() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut written = Written::default();
        let note = |written: &mut Written, second, flushed, inserted| {
            written.note(at(second), Lsn(flushed), Lsn(inserted), Some(Lsn(100)));
        };
        note(&mut written, 0, 100, 100);
        for second in 1..1000 {
            note(&mut written, second, 8192, 9000);
            let lag = written.lag(Lsn(100), at(second));
            assert_eq!((lag.bytes, lag.time), (Some(8092), Some(Duration::ZERO)));
        }
        assert!(written.ends.len() < 2);
        // It commits, and then more is written all the time.
        note(&mut written, 1000, 9000, 9100);
        assert_eq!(
            written.lag(Lsn(100), at(1001)).time,
            Some(Duration::from_secs(1))
        );
        for second in 1001..1010 {
            note(&mut written, second, 9000 + second, 9001 + second);
        }
        assert_eq!(
            written.lag(Lsn(100), at(1010)).time,
            Some(Duration::from_secs(10))
        );
        assert_eq!(
            written.lag(Lsn(9000 + 1009), at(1010)).time,
            Some(Duration::ZERO)
        );
        // The first look finds half a record.
        let mut written = Written::default();
        note(&mut written, 0, 8192, 9000);
        assert_eq!(written.lag(Lsn(100), at(5)).time, Some(Duration::ZERO));
        note(&mut written, 6, 9000, 9000);
        assert_eq!(
            written.lag(Lsn(100), at(7)).time,
            Some(Duration::from_secs(1))
        );
        // Inserted, and never flushed.
        for second in 7..1000 {
            note(&mut written, second, 9000, 9000 + second);
            assert!(written.ends.len() <= MOST_ENDS);
        }
    }

    #[test]
    fn the_memory_is_bounded_and_keeps_its_beginning() {
        let start = Instant::now();
        let mut written = Written::default();
        for second in 0..10_000 {
            let lsn = Lsn(100 + second);
            let asked = start + Duration::from_secs(second);
            written.note(asked, lsn, lsn, Some(Lsn(99)));
            assert!(written.marks.len() <= MOST);
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
