//! How fast rows of one source are copied.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Bytes that may be owed before anyone waits, as time at the rate.
const CREDIT: Duration = Duration::from_millis(200);

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
//! How fast rows are copied: never faster than an operator allows, and slower while clients feel it.
//!
//! The speed is a part of the full one, between a hundredth and all of it. When clients' statements take longer than they may, the part is halved;
//! when they do not, it grows by a twentieth. So clients are relieved at once, what they can bear is found again, and nothing stalls for ever:
//! a hundredth of the full speed always remains. The full speed is the allowed rate, or, where none is set, what was seen while nothing held
//! the copying back.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::resharding::job::Throttle;

/// The least part of the full speed.
const LEAST: f64 = 0.01;

/// One step back is by half, one step up is by this.
const STEP: f64 = 0.05;

/// The full speed is measured over at least this long.
const WINDOW: Duration = Duration::from_millis(500);

/// Taken as the full speed before any was seen, in bytes in a second.
const ASSUMED: f64 = 64.0 * 1024.0 * 1024.0;

/// Nobody sleeps longer without another look.
const LONGEST: Duration = Duration::from_secs(1);

/// What decides; without a clock of its own.
#[derive(Debug)]
struct Speed {
    throttle: Throttle,
    /// Between [`LEAST`] and 1.
    part: f64,
    /// Bytes in a second, as seen when nothing held the copying back.
    seen: Option<f64>,
    /// When the measuring began, and the bytes since.
    window: Option<(Duration, f64)>,
    /// Bytes that were let through and whose time has not passed yet, as of the moment.
    debt: f64,
    at: Duration,
}

impl Speed {
    fn new(throttle: Throttle) -> Speed {
        Speed {
            throttle,
            part: 1.0,
            seen: None,
            window: None,
            debt: 0.0,
            at: Duration::ZERO,
        }
    }

    /// Bytes in a second; `None`: nothing holds the copying back.
    fn rate(&self) -> Option<f64> {
        #[allow(clippy::cast_precision_loss)]
        let allowed = self.throttle.rate.map(|rate| rate.max(1) as f64);
        match allowed {
            Some(rate) => Some(rate * self.part),
            None if self.part < 1.0 => Some(self.seen.unwrap_or(ASSUMED) * self.part),
            None => None,
        }
    }

    /// Clients' statements took so long (99th percentile).
    fn observe(&mut self, now: Duration, p99: Duration) {
        self.pass(now);
        let Some(limit) = self.throttle.latency_ms else {
            self.part = 1.0;
            return;
        };
        self.part = match p99 > Duration::from_millis(limit) {
            true => (self.part / 2.0).max(LEAST),
            false => (self.part + STEP).min(1.0),
        };
        if self.part < 1.0 {
            // What is measured from here on is what was allowed.
            self.window = None;
        }
    }

    fn set(&mut self, now: Duration, throttle: Throttle) {
        self.pass(now);
        self.throttle = throttle;
        self.window = None;
        if throttle.latency_ms.is_none() {
            self.part = 1.0;
        }
    }

    /// How long to wait before the next chunk; nothing: it is let through, and counted.
    fn next(&mut self, now: Duration, bytes: u64) -> Option<Duration> {
        self.pass(now);
        #[allow(clippy::cast_precision_loss)]
        let bytes = bytes as f64;
        let Some(rate) = self.rate() else {
            self.measure(now, bytes);
            self.debt = 0.0;
            return None;
        };
        if self.debt > 0.0 {
            let wait = Duration::try_from_secs_f64(self.debt / rate).unwrap_or(LONGEST);
            return Some(wait.clamp(Duration::from_millis(1), LONGEST));
        }
        self.debt = bytes;
        None
    }

    /// Time pays what was let through. Nothing is saved up.
    fn pass(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(now);
        if let Some(rate) = self.rate() {
            self.debt = (self.debt - passed * rate).max(0.0);
        }
    }

    fn measure(&mut self, now: Duration, bytes: f64) {
        let (begun, before) = *self.window.get_or_insert((now, 0.0));
        let passed = now.saturating_sub(begun);
        if passed >= WINDOW {
            // A pause between two tables is no measure of speed: it falls slowly.
            let speed = before / passed.as_secs_f64();
            let seen = self.seen.unwrap_or(speed);
            self.seen = Some(speed.max(seen * 0.9).max(1.0));
            self.window = Some((now, bytes));
        } else {
            self.window = Some((begun, before + bytes));
        }
    }
}

/// Shared by all who copy from one source; cheap to clone.
#[derive(Clone, Debug)]
pub struct Pace(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    speed: Mutex<Speed>,
    begun: Instant,
    changed: Notify,
}

impl Pace {
    pub fn new(throttle: Throttle) -> Pace {
        Pace(Arc::new(Shared {
            speed: Mutex::new(Speed::new(throttle)),
            begun: Instant::now(),
            changed: Notify::new(),
        }))
    }

    /// An operator changed it. Who waits goes by it at once.
    pub fn set(&self, throttle: Throttle) {
        let now = self.0.begun.elapsed();
        let mut speed = self.speed();
        if speed.throttle != throttle {
            speed.set(now, throttle);
            drop(speed);
            self.0.changed.notify_waiters();
        }
    }

    /// Clients' statements took so long (99th percentile) since the last time; to be told about once a second.
    pub fn observe(&self, p99: Duration) {
        let now = self.0.begun.elapsed();
        self.speed().observe(now, p99);
    }

    /// Waits until a chunk of so many bytes, about, may be copied. Dropping the future takes nothing from others.
    pub async fn before_chunk(&self, bytes: u64) {
        loop {
            let changed = self.0.changed.notified();
            let now = self.0.begun.elapsed();
            let wait = self.speed().next(now, bytes);
            let Some(wait) = wait else { return };
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn speed(&self) -> MutexGuard<'_, Speed> {
        let locked = self.0.speed.lock();
        locked.expect("nothing panics while it holds the lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_take_their_time() {
        let pace = Pace::new(Some(1000));
        let start = Instant::now();
        for _ in 0..10 {
            pace.admitted().await;
            pace.spent(500);
        }
        pace.admitted().await;
        let took = start.elapsed();
        assert!((4700..=5000).contains(&took.as_millis()), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_ends_with_resume_and_a_new_rate_counts_at_once() {
        let pace = std::sync::Arc::new(Pace::new(Some(1)));
        pace.spent(1000);
        pace.pause();
        let waiting = tokio::spawn({
            let pace = pace.clone();
            async move { pace.admitted().await }
        });
        tokio::time::sleep(Duration::from_secs(10)).await;
        pace.set_rate(None);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(!waiting.is_finished());
        pace.resume();
        waiting.await.expect("admitted");
    const MB: u64 = 1024 * 1024;

    fn throttle(rate: Option<u64>, latency_ms: Option<u64>) -> Throttle {
        Throttle { rate, latency_ms }
    }

    /// Copies chunks for so many seconds, each of which takes `work`, and tells the bytes in a second.
    fn copied(
        speed: &mut Speed,
        now: &mut Duration,
        seconds: u64,
        bytes: u64,
        work: Duration,
    ) -> u64 {
        let (begun, mut total) = (*now, 0);
        while *now - begun < Duration::from_secs(seconds) {
            match speed.next(*now, bytes) {
                Some(wait) => *now += wait,
                None => {
                    total += bytes;
                    *now += work;
                }
            }
        }
        total / seconds
    }

    #[test]
    fn without_limits_nobody_waits() {
        let mut speed = Speed::new(throttle(None, None));
        for chunk in 0..1000 {
            let now = Duration::from_millis(chunk);
            assert_eq!(speed.next(now, 100 * MB), None);
            speed.observe(now, Duration::from_secs(10));
        }
    }

    #[test]
    fn the_rate_is_kept_whatever_a_chunk_takes() {
        for work in [1, 20, 90] {
            let mut speed = Speed::new(throttle(Some(10 * MB), None));
            let mut now = Duration::ZERO;
            let rate = copied(&mut speed, &mut now, 60, MB, Duration::from_millis(work));
            assert!(
                (9 * MB..=10 * MB + MB / 2).contains(&rate),
                "{rate} with {work} ms"
            );
        }
        // What was not used is not saved up for later.
        let mut speed = Speed::new(throttle(Some(10 * MB), None));
        let mut now = Duration::from_secs(3600);
        let rate = copied(&mut speed, &mut now, 10, MB, Duration::ZERO);
        assert!(rate <= 11 * MB, "{rate}");
    }

    #[test]
    fn clients_that_wait_slow_it_down_and_it_comes_back() {
        let mut speed = Speed::new(throttle(None, Some(5)));
        let mut now = Duration::ZERO;
        let work = Duration::from_millis(20);
        let full = copied(&mut speed, &mut now, 5, MB, work);
        assert!((49 * MB..=51 * MB).contains(&full), "{full}");
        speed.observe(now, Duration::from_millis(6));
        let half = copied(&mut speed, &mut now, 5, MB, work);
        assert!((23 * MB..=26 * MB).contains(&half), "{half}");
        for _ in 0..9 {
            speed.observe(now, Duration::from_millis(5));
        }
        let most = copied(&mut speed, &mut now, 5, MB, work);
        assert!((45 * MB..=49 * MB).contains(&most), "{most}");
        for _ in 0..2 {
            speed.observe(now, Duration::ZERO);
        }
        assert_eq!(speed.rate(), None);
    }

    #[test]
    fn a_hundredth_always_remains() {
        for rate in [None, Some(100 * MB)] {
            let mut speed = Speed::new(throttle(rate, Some(5)));
            let mut now = Duration::ZERO;
            let work = Duration::from_millis(10);
            copied(&mut speed, &mut now, 2, MB, work);
            for _ in 0..1000 {
                speed.observe(now, Duration::from_secs(60));
            }
            let least = copied(&mut speed, &mut now, 100, MB, work);
            assert!((MB / 2..=MB + MB / 4).contains(&least), "{least}");
        }
        // Also when nothing was seen of the full speed, and the rate is hardly one.
        let mut speed = Speed::new(throttle(Some(0), Some(0)));
        speed.observe(Duration::ZERO, Duration::from_secs(1));
        let mut now = Duration::ZERO;
        assert!(copied(&mut speed, &mut now, 3, 1, Duration::ZERO) <= 1);
    }

    #[test]
    fn a_limit_that_is_lifted_is_forgotten() {
        let mut speed = Speed::new(throttle(Some(1), Some(5)));
        assert_eq!(speed.next(Duration::ZERO, MB), None);
        speed.observe(Duration::ZERO, Duration::from_secs(1));
        assert_eq!(speed.next(Duration::ZERO, MB), Some(LONGEST));
        speed.set(Duration::ZERO, throttle(None, None));
        assert_eq!(speed.next(Duration::ZERO, MB), None);
    }

    #[tokio::test]
    async fn who_waits_goes_by_a_change_at_once() {
        let pace = Pace::new(throttle(Some(MB), None));
        pace.before_chunk(600 * MB).await;
        let waits = pace.before_chunk(MB);
        tokio::pin!(waits);
        // Looked at once.
        let looked = tokio::time::timeout(Duration::ZERO, waits.as_mut()).await;
        assert!(looked.is_err());
        pace.set(Throttle::default());
        let looked = tokio::time::timeout(Duration::ZERO, waits).await;
        assert!(looked.is_ok());
    }
}
