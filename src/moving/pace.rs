//! How fast rows of one source are copied, and later removed.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Bytes that may be owed before anyone waits, as time at the rate.
const CREDIT: Duration = Duration::from_millis(200);

/// Reading takes turns with clients: so much at a time, as time at the rate. Much at once and then nothing for long would hold up those who ask meanwhile.
const TURN: Duration = Duration::from_millis(50);
/// Bytes that are worth a turn.
const LEAST: u64 = 64 << 10;

/// Shared by all that reads rows of one source or removes them, and by whoever slows it down.
#[derive(Debug)]
pub struct Pace {
    /// Bytes in a second; `None`: no limit.
    rate: watch::Sender<Option<u64>>,
    /// Until when the rate has been used up.
    used: Mutex<Instant>,
}

impl Pace {
    /// `rate`: bytes in a second.
    pub fn new(rate: Option<u64>) -> Pace {
        Pace {
            rate: watch::Sender::new(rate),
            used: Mutex::new(Instant::now()),
        }
    }

    pub fn set_rate(&self, rate: Option<u64>) {
        self.rate
            .send_if_modified(|last| std::mem::replace(last, rate) != rate);
    }

    /// Waits until more may be read.
    pub async fn admitted(&self) {
        let mut rate = self.rate.subscribe();
        while rate.borrow_and_update().is_some() {
            let until = *self.used() - CREDIT;
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(until) => return,
                // The sender is `self`, so it lives.
                _ = rate.changed() => {}
            }
        }
    }

    /// Bytes that should be read at a time; `None`: as many as one likes.
    pub fn turn(&self) -> Option<u64> {
        let rate = (*self.rate.borrow())?;
        Some(((rate as f64 * TURN.as_secs_f64()) as u64).max(LEAST))
    }

    /// Notes what was read.
    pub fn spent(&self, bytes: u64) {
        let Some(rate) = *self.rate.borrow() else {
            return;
        };
        let seconds = bytes as f64 / rate.max(1) as f64;
        let mut used = self.used();
        // An hour is as good as any longer time.
        *used = used.max(Instant::now()) + Duration::from_secs_f64(seconds.min(3600.0));
    }

    fn used(&self) -> MutexGuard<'_, Instant> {
        self.used
            .lock()
            .expect("nothing panics while it holds the lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_take_their_time() {
        let pace = Pace::new(Some(10_000));
        let start = Instant::now();
        for _ in 0..10 {
            pace.admitted().await;
            pace.spent(500);
        }
        pace.admitted().await;
        // Half a second, less the credit.
        assert!(start.elapsed() >= Duration::from_millis(300));
    }

    #[test]
    fn turns_are_as_large_as_the_rate() {
        let pace = Pace::new(None);
        assert_eq!(pace.turn(), None);
        pace.set_rate(Some(20 << 20));
        assert_eq!(pace.turn(), Some(1 << 20));
        pace.set_rate(Some(1));
        assert_eq!(pace.turn(), Some(LEAST));
    }

    #[tokio::test]
    async fn a_new_rate_counts_at_once() {
        let pace = Pace::new(Some(1));
        pace.spent(1000);
        let mut waiting = std::pin::pin!(pace.admitted());
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        pace.set_rate(Some(2));
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        pace.set_rate(None);
        waiting.await;
    }
}
