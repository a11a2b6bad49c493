//! Copying makes way for clients: while their requests take longer than is wanted, it slows down.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::resharding::job::Throttle;

/// Between two changes of the rate: as often as there is something new to be seen.
const PACE: Duration = Duration::from_secs(1);
/// Bytes in a second at first, and never less, so that a plan comes to its end.
const SLOWEST: u64 = 256 << 10;
/// As good as no limit.
const FASTEST: u64 = 4 << 30;

/// Finds the rate at which clients are not held up: half as much when they are, and then more each second; by a fourth as long as it is far from where
/// they were held up last, and by little near it.
#[derive(Debug)]
pub struct Brake {
    /// The 99th percentile of the last second, in microseconds.
    latency: watch::Receiver<Option<u64>>,
    rate: u64,
    /// The rate at which clients were held up last.
    too_fast: u64,
    looked: Option<Instant>,
}

impl Brake {
    pub fn new(latency: watch::Receiver<Option<u64>>) -> Brake {
        Brake {
            latency,
            rate: SLOWEST,
            too_fast: FASTEST,
            looked: None,
        }
    }

    /// Bytes in a second from each source; `None`: no limit.
    pub fn rate(&mut self, throttle: Throttle, now: Instant) -> Option<u64> {
        let Some(limit) = throttle.latency_us else {
            (self.rate, self.too_fast) = (SLOWEST, FASTEST);
            return throttle.rate;
        };
        if self.looked.is_none_or(|looked| now - looked >= PACE) {
            self.looked = Some(now);
            let latency = *self.latency.borrow();
            // Nobody asks for anything: nobody is held up.
            if latency.is_some_and(|latency| latency > limit) {
                self.too_fast = self.rate;
                self.rate = (self.rate / 2).max(SLOWEST);
            } else {
                let near = self.rate > self.too_fast / 4 * 3;
                let more = self.rate / if near { 32 } else { 4 };
                self.rate = (self.rate + more).min(FASTEST);
            }
        }
        Some(throttle.rate.map_or(self.rate, |rate| rate.min(self.rate)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_makes_way_and_comes_back() {
        let (clients, latency) = watch::channel(None);
        let mut brake = Brake::new(latency);
        let mut now = Instant::now();
        let free = Throttle::default();
        assert_eq!(brake.rate(free, now), None);
        let careful = Throttle {
            rate: Some(SLOWEST * 2),
            latency_us: Some(5_000),
        };
        let mut rate = |clients_take: Option<u64>| {
            clients.send_replace(clients_take);
            now += PACE;
            brake.rate(careful, now).unwrap()
        };
        assert_eq!(rate(Some(4_999)), SLOWEST + SLOWEST / 4);
        for _ in 0..20 {
            rate(Some(1_000));
        }
        assert_eq!(rate(None), SLOWEST * 2, "never above what is allowed");
        let before = rate(Some(1_000));
        for _ in 0..40 {
            rate(Some(5_001));
        }
        let slow = rate(Some(5_001));
        assert!(slow < before);
        assert_eq!(slow, SLOWEST, "it never stands still");
        assert!(rate(Some(100)) > slow);
    }

    #[test]
    fn it_comes_near_slowly_to_what_was_too_much() {
        let (clients, latency) = watch::channel(None);
        let mut brake = Brake::new(latency);
        let mut now = Instant::now();
        let mut rate = |clients_take: u64| {
            clients.send_replace(Some(clients_take));
            now += PACE;
            let careful = Throttle {
                rate: None,
                latency_us: Some(5_000),
            };
            brake.rate(careful, now).unwrap()
        };
        let mut last = SLOWEST;
        while last < 40 << 20 {
            last = rate(1_000);
        }
        let too_fast = last;
        assert_eq!(rate(6_000), too_fast / 2);
        let mut seconds = 0;
        while rate(1_000) < too_fast {
            seconds += 1;
        }
        assert!((5..20).contains(&seconds), "{seconds}");
    }
}
