//! How fast rows of one source are copied.

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

/// Shared by all that reads rows of one source, and by whoever slows it down.
#[derive(Debug)]
pub struct Pace {
    going: watch::Sender<Going>,
    /// Until when the rate has been used up.
    used: Mutex<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Going {
    /// Bytes in a second; `None`: no limit.
    rate: Option<u64>,
    /// Nothing new is begun.
    paused: bool,
}

impl Pace {
    /// `rate`: bytes in a second.
    pub fn new(rate: Option<u64>) -> Pace {
        let going = Going {
            rate,
            paused: false,
        };
        Pace {
            going: watch::Sender::new(going),
            used: Mutex::new(Instant::now()),
        }
    }

    pub fn set_rate(&self, rate: Option<u64>) {
        self.going
            .send_if_modified(|going| std::mem::replace(&mut going.rate, rate) != rate);
    }

    /// Begins nothing new; what is under way ends.
    pub fn pause(&self) {
        self.going
            .send_if_modified(|going| !std::mem::replace(&mut going.paused, true));
    }

    pub fn resume(&self) {
        self.going
            .send_if_modified(|going| std::mem::replace(&mut going.paused, false));
    }

    /// Waits until more may be read.
    pub async fn admitted(&self) {
        let mut going = self.going.subscribe();
        loop {
            let now = *going.borrow_and_update();
            let until = *self.used() - CREDIT;
            let wait = async {
                match now {
                    Going { paused: true, .. } => std::future::pending().await,
                    Going { rate: Some(_), .. } => tokio::time::sleep_until(until).await,
                    Going { rate: None, .. } => {}
                }
            };
            tokio::select! {
                biased;
                () = wait => return,
                // The sender is `self`, so it lives.
                _ = going.changed() => {}
            }
        }
    }

    /// Bytes that should be read at a time; `None`: as many as one likes.
    pub fn turn(&self) -> Option<u64> {
        let rate = self.going.borrow().rate?;
        Some(((rate as f64 * TURN.as_secs_f64()) as u64).max(LEAST))
    }

    /// Notes what was read.
    pub fn spent(&self, bytes: u64) {
        let Some(rate) = self.going.borrow().rate else {
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
    async fn a_pause_ends_with_resume_and_a_new_rate_counts_at_once() {
        let pace = Pace::new(Some(1));
        pace.spent(1000);
        pace.pause();
        pace.set_rate(None);
        {
            let mut waiting = std::pin::pin!(pace.admitted());
            assert!(futures_util::poll!(waiting.as_mut()).is_pending());
            pace.resume();
            waiting.await;
        }
        pace.set_rate(Some(1));
        pace.spent(1000);
        let mut waiting = std::pin::pin!(pace.admitted());
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        pace.set_rate(None);
        waiting.await;
    }
}
