//! When a replica takes no reads because clients' connections to it fail. Pure: the clock and the dice are the caller's.

use std::time::{Duration, Instant};

/// An ejection that begins within so many lengths of the last one after its end is twice as long.
const SOON: u32 = 10;

/// How much longer or shorter than planned at most.
const JITTER: f64 = 0.1;

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Failures in a row.
    pub after: usize,
    pub time: Duration,
    pub longest: Duration,
}

/// What clients' connections say of a node.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ejection {
    failures: usize,
    last: Option<Term>,
    /// How often it happened.
    pub times: u64,
}

#[derive(Clone, Copy, Debug)]
struct Term {
    until: Instant,
    /// Without the jitter.
    planned: Duration,
}

impl Ejection {
    pub fn reached(&mut self) {
        self.failures = 0;
    }

    /// Gives for how long the node is ejected when it now is. `dice` is from -1 to 1. Failures of a node that is ejected are of connections from before.
    pub fn failed(&mut self, limits: Limits, now: Instant, dice: f64) -> Option<Duration> {
        if self.left(now).is_some() {
            return None;
        }
        self.failures += 1;
        if self.failures < limits.after {
            return None;
        }
        self.failures = 0;
        let is_soon = |last: &Term| now.duration_since(last.until) < last.planned * SOON;
        let planned = match self.last.filter(is_soon) {
            Some(last) => (last.planned * 2).min(limits.longest),
            None => limits.time.min(limits.longest),
        };
        let length = planned.mul_f64(1.0 + JITTER * dice.clamp(-1.0, 1.0));
        self.last = Some(Term {
            until: now + length,
            planned,
        });
        self.times += 1;
        Some(length)
    }

    /// How long it will still be ejected; `None`: it is not.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        let left = self.last?.until.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// It may have been ended before its time.
    pub fn end(&mut self, now: Instant) {
        if let Some(last) = &mut self.last {
            last.until = last.until.min(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        after: 3,
        time: Duration::from_secs(1),
        longest: Duration::from_secs(5),
    };

    /// Fails until it is ejected; gives the seconds.
    fn eject(ejection: &mut Ejection, now: Instant, dice: f64) -> f64 {
        for _ in 1..LIMITS.after {
            assert_eq!(ejection.failed(LIMITS, now, dice), None);
        }
        let length = ejection.failed(LIMITS, now, dice).expect("ejected");
        assert_eq!(ejection.left(now), Some(length));
        length.as_secs_f64()
    }

    #[test]
    fn failures_in_a_row_count() {
        let now = Instant::now();
        let mut ejection = Ejection::default();
        for _ in 0..10 {
            assert_eq!(ejection.failed(LIMITS, now, 0.0), None);
            assert_eq!(ejection.failed(LIMITS, now, 0.0), None);
            ejection.reached();
        }
        assert_eq!(ejection.left(now), None);
        assert_eq!(eject(&mut ejection, now, 0.0), 1.0);
        // What fails meanwhile is old.
        for _ in 0..10 {
            assert_eq!(ejection.failed(LIMITS, now, 0.0), None);
        }
        assert_eq!(
            ejection.left(now + Duration::from_millis(400)),
            Some(Duration::from_millis(600))
        );
        assert_eq!(ejection.left(now + Duration::from_secs(1)), None);
        assert_eq!(ejection.times, 1);
    }

    #[test]
    fn each_is_longer_when_it_is_soon_up_to_a_limit() {
        let mut now = Instant::now();
        let mut ejection = Ejection::default();
        for wanted in [1.0, 2.0, 4.0, 5.0, 5.0] {
            let length = eject(&mut ejection, now, 0.0);
            assert_eq!(length, wanted);
            now += Duration::from_secs_f64(length + 1.0);
        }
        now += Duration::from_secs(50);
        assert_eq!(eject(&mut ejection, now, 0.0), 1.0);
        assert_eq!(ejection.times, 6);
    }

    #[test]
    fn nodes_do_not_come_back_in_step() {
        let now = Instant::now();
        for (dice, wanted) in [(-1.0, 0.9), (0.5, 1.05), (1.0, 1.1), (7.0, 1.1)] {
            let length = eject(&mut Ejection::default(), now, dice);
            assert!((length - wanted).abs() < 1e-6, "{length}");
        }
    }

    #[test]
    fn it_may_end_before_its_time() {
        let now = Instant::now();
        let mut ejection = Ejection::default();
        eject(&mut ejection, now, 0.0);
        ejection.end(now);
        assert_eq!(ejection.left(now), None);
        assert_eq!(eject(&mut ejection, now, 0.0), 2.0);
    }
}
