//! When a shard's nodes are looked at next. Pure: the clock is the caller's.
//!
//! Calm shards at the configured interval, all of them at the same moments: one awakening of the process then serves every node. Those of which
//! something is wrong, or has been seen by clients, more often. Whatever is seen and however often: never more often than the shortest of these times.

use std::time::{Duration, Instant};

/// While something is wrong. With `fall` = 3 a server that is gone is known to be down after three of these.
const QUICK: Duration = Duration::from_millis(100);

/// While somebody waits for a replica.
const OFTEN: Duration = Duration::from_millis(10);

/// How long something that was seen is followed.
const FOLLOWED: Duration = Duration::from_secs(1);

/// What stays wrong for longer than this is looked at less often, by `SLOW`.
const PATIENCE: Duration = Duration::from_secs(60);
const SLOW: Duration = Duration::from_secs(1);

/// Whether something is wrong with a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    None,
    Some,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// The last look at the shard.
    begun: Option<Instant>,
    /// Somebody has seen something since.
    hurry: Option<Instant>,
    /// Somebody was told by the primary that it is none.
    doubted: Option<Instant>,
    awaited: Option<Instant>,
    wrong_since: Option<Instant>,
}

impl Pace {
    pub fn begin(&mut self, now: Instant) {
        self.begun = Some(now);
        self.hurry = None;
    }

    pub fn judged(&mut self, trouble: Trouble, now: Instant) {
        self.wrong_since = match trouble {
            Trouble::None => None,
            Trouble::Some => self.wrong_since.or(Some(now)),
        };
    }

    /// A node may be gone.
    pub fn hurry(&mut self, now: Instant) {
        self.hurry = Some(now);
    }

    /// The primary may be another one.
    pub fn doubt(&mut self, now: Instant) {
        self.hurry = Some(now);
        self.doubted = Some(now);
    }

    /// Somebody waits for a replica.
    pub fn awaited(&mut self, now: Instant) {
        self.awaited = Some(now);
    }

    /// When the next look is due; `None`: at once. Calm shards meet at whole intervals after `origin`.
    pub fn due(&self, interval: Duration, origin: Instant) -> Option<Instant> {
        let begun = self.begun?;
        let follows = |seen: Option<Instant>| seen.is_some_and(|seen| begun < seen + FOLLOWED);
        let wrong = self
            .wrong_since
            .map(|since| match begun < since + PATIENCE {
                true => QUICK,
                false => SLOW,
            });
        let gap = if follows(self.awaited) {
            OFTEN
        } else if self.hurry.is_some() || follows(self.doubted) {
            QUICK
        } else if let Some(gap) = wrong {
            gap
        } else {
            let early = past_the_last_whole(interval, begun + interval - origin);
            (interval - early).max(QUICK)
        };
        Some(begun + gap.min(interval))
    }
}

/// What is left of a time when as many whole intervals as possible are taken from it.
fn past_the_last_whole(interval: Duration, time: Duration) -> Duration {
    let left = time.as_nanos().checked_rem(interval.as_nanos());
    let left = left.and_then(|nanos| u64::try_from(nanos).ok());
    left.map_or(Duration::ZERO, Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(2);

    /// Looks for so long after `start`, and gives how long after it each was.
    fn looks(pace: &mut Pace, start: Instant, length: Duration) -> Vec<u64> {
        let mut looks = Vec::new();
        while let Some(due) = pace.due(INTERVAL, start) {
            let now = due.max(start);
            if now > start + length {
                break;
            }
            looks.push(u64::try_from((now - start).as_millis()).expect("short"));
            pace.begin(now);
        }
        looks
    }

    fn calm(start: Instant) -> Pace {
        let mut pace = Pace::default();
        assert_eq!(pace.due(INTERVAL, start), None);
        pace.begin(start);
        pace
    }

    #[test]
    fn a_calm_shard_is_looked_at_by_the_interval() {
        let start = Instant::now();
        assert_eq!(
            looks(&mut calm(start), start, INTERVAL * 3),
            [2000, 4000, 6000]
        );
    }

    #[test]
    fn calm_shards_meet() {
        let origin = Instant::now();
        for (begun, due) in [
            (0, 2000),
            (1, 2000),
            (1899, 2000),
            (1900, 2000),
            // Too soon after the look that has just been.
            (1901, 2001),
            (1999, 2099),
            (2000, 4000),
            (2099, 4000),
        ] {
            let begun = origin + Duration::from_millis(begun);
            let due = origin + Duration::from_millis(due);
            assert_eq!(calm(begun).due(INTERVAL, origin), Some(due));
        }
    }

    #[test]
    fn what_is_seen_has_it_looked_at_once_and_a_storm_does_not_make_it_more() {
        let start = Instant::now();
        let mut pace = calm(start);
        let later = start + Duration::from_millis(700);
        for _ in 0..100 {
            pace.hurry(later);
        }
        assert_eq!(looks(&mut pace, later, Duration::from_secs(1)), [0]);
        // Right after a look the next one waits a moment.
        let look = start + Duration::from_secs(10);
        pace.begin(look);
        pace.hurry(look + Duration::from_millis(1));
        assert_eq!(looks(&mut pace, look, Duration::from_secs(1)), [100]);
    }

    #[test]
    fn trouble_is_followed_quickly_and_then_less() {
        let start = Instant::now();
        let mut pace = calm(start);
        pace.judged(Trouble::Some, start);
        pace.judged(Trouble::Some, start + Duration::from_secs(1));
        let found = looks(&mut pace, start, Duration::from_secs(70));
        assert_eq!(found[..3], [100, 200, 300]);
        assert_eq!(found.len(), 600 + 10);
        pace.judged(Trouble::None, start);
        assert_eq!(
            looks(&mut pace, start + Duration::from_secs(70), INTERVAL).len(),
            1
        );
    }

    #[test]
    fn who_waits_for_a_replica_is_served_for_a_while() {
        let start = Instant::now();
        let mut pace = calm(start);
        pace.awaited(start);
        let found = looks(&mut pace, start, Duration::from_secs(2));
        assert_eq!(found[..2], [10, 20]);
        assert_eq!(found[99..], [1000, 2000]);
        let mut pace = calm(start);
        pace.doubt(start);
        let found = looks(&mut pace, start, Duration::from_secs(2));
        assert_eq!(found[9..], [1000, 2000]);
    }
}
