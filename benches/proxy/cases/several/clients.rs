//! Clients that do one thing over and over, watched for a while.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::cpu;
use crate::load::percentiles;
use crate::report::Measure;

/// Before the window: connections to servers are opened, plans and pages cached.
const WARM_UP: Duration = Duration::from_millis(500);

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// A read that showed part of a transaction.
    Torn,
    /// 40001
    Refused,
}

/// What a client does once. Owns its connections.
pub trait Turn: Send {
    /// Returns the part of it that is of particular interest, if there is one.
    fn take(&mut self) -> io::Result<(Outcome, Option<Duration>)>;
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    ended: Instant,
    took: Duration,
    outcome: Outcome,
    part: Option<Duration>,
}

/// What ended in the window.
#[derive(Debug)]
pub struct Window {
    length: Duration,
    cpu: Duration,
    samples: Vec<Sample>,
    /// Of those beside that succeeded, during the whole run.
    beside: u64,
    /// Those of interest that were begun, in and outside the window.
    pub all: u64,
    whole: Duration,
}

/// Runs `watched`, and `beside` at the same time, a thread each, until the window is over. `proxy` is whose CPU time is taken. The first error ends it.
pub fn watch(
    mut watched: Vec<Box<dyn Turn>>,
    mut beside: Vec<Box<dyn Turn>>,
    proxy: Option<u32>,
    length: Duration,
) -> io::Result<Window> {
    let (stop, others) = (AtomicBool::new(false), AtomicU64::new(0));
    let used = || {
        proxy
            .map_or(Ok(Duration::ZERO), cpu::used)
            .map_err(io::Error::other)
    };
    let began = Instant::now();
    std::thread::scope(|scope| {
        let (stop, others) = (&stop, &others);
        let threads: Vec<_> = watched
            .iter_mut()
            .map(|turn| scope.spawn(move || repeat(turn.as_mut(), stop, |_| {})))
            .collect();
        let count = |outcome| {
            others.fetch_add(u64::from(outcome == Outcome::Done), Ordering::Relaxed);
        };
        let beside: Vec<_> = beside
            .iter_mut()
            .map(|turn| scope.spawn(move || repeat(turn.as_mut(), stop, count)))
            .collect();
        std::thread::sleep(WARM_UP);
        let before = (Instant::now(), used());
        sleep_unless(stop, length);
        let after = (Instant::now(), used());
        stop.store(true, Ordering::Relaxed);
        let mut samples = Vec::new();
        for thread in threads {
            samples.extend(joined(thread)?);
        }
        for thread in beside {
            joined(thread)?;
        }
        let all = samples.len() as u64;
        samples.retain(|sample| before.0 < sample.ended && sample.ended <= after.0);
        Ok(Window {
            length: after.0 - before.0,
            cpu: after.1?.saturating_sub(before.1?),
            samples,
            beside: others.load(Ordering::Relaxed),
            all,
            whole: began.elapsed(),
        })
    })
}

/// A thread's result.
pub fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, io::Result<T>>) -> io::Result<T> {
    let ended = thread.join();
    ended.unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
}

/// An error need not wait for the end of the window.
fn sleep_unless(stop: &AtomicBool, length: Duration) {
    let end = Instant::now() + length;
    while !stop.load(Ordering::Relaxed) {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
}

/// Until told to stop, or an error, which stops the others.
fn repeat(
    turn: &mut dyn Turn,
    stop: &AtomicBool,
    mut seen: impl FnMut(Outcome),
) -> io::Result<Vec<Sample>> {
    let mut samples = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let taken = turn.take();
        let (outcome, part) = taken.inspect_err(|_| stop.store(true, Ordering::Relaxed))?;
        let ended = Instant::now();
        seen(outcome);
        samples.push(Sample {
            ended,
            took: ended - began,
            outcome,
            part,
        });
    }
    Ok(samples)
}

impl Window {
    pub fn count(&self, outcome: Outcome) -> u64 {
        let of_it = |sample: &&Sample| sample.outcome == outcome;
        self.samples.iter().filter(of_it).count() as u64
    }

    pub fn per_second(&self, outcome: Outcome) -> f64 {
        self.count(outcome) as f64 / self.length.as_secs_f64()
    }

    /// Of what ran beside.
    pub fn beside_per_second(&self) -> f64 {
        self.beside as f64 / self.whole.as_secs_f64()
    }

    pub fn cpu_us_each(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.samples.len().max(1) as f64
    }

    pub fn mean_ms(&self) -> f64 {
        let sum: Duration = self.samples.iter().map(|sample| sample.took).sum();
        sum.as_secs_f64() * 1e3 / self.samples.len().max(1) as f64
    }

    /// The parts of interest.
    pub fn parts(&self) -> impl Iterator<Item = Duration> {
        self.samples.iter().filter_map(|sample| sample.part)
    }

    /// Adds how long it took, and where a part is timed how long that took.
    pub fn latencies(&self, measure: Measure) -> Measure {
        let took = self.samples.iter().map(|sample| sample.took).collect();
        let part = self.parts().collect();
        let mut measure = measure.with("mean_ms", self.mean_ms());
        if let Some([p50, p99]) = percentiles(took, [50, 99]) {
            measure = measure
                .with("p50_ms", milliseconds(p50))
                .with("p99_ms", milliseconds(p99));
        }
        match percentiles(part, [50]) {
            Some([p50]) => measure.with("commit_p50_ms", milliseconds(p50)),
            None => measure,
        }
    }
}

pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Random numbers that are the same in each run (Steele et al., "Fast Splittable Pseudorandom Number Generators", 2014).
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}
