//! How long requests take, counted: a histogram that costs an addition for each.

use std::cell::Cell;

/// Four for each doubling of the time.
const STEPS: u32 = 4;
/// Up to an hour and more, in microseconds.
const COUNT: usize = 34 * STEPS as usize;

/// Of one database on one thread.
#[derive(Debug)]
pub struct Latency([Cell<u64>; COUNT]);

impl Default for Latency {
    fn default() -> Latency {
        Latency(std::array::from_fn(|_| Cell::new(0)))
    }
}

/// What was counted up to a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts(Vec<u64>);

impl Default for Counts {
    fn default() -> Counts {
        Counts(vec![0; COUNT])
    }
}

impl Latency {
    /// A request took so many microseconds.
    #[inline]
    pub fn note(&self, microseconds: u64) {
        let counter = &self.0[place(microseconds)];
        counter.set(counter.get().wrapping_add(1));
    }

    pub fn counts(&self) -> Counts {
        Counts(self.0.iter().map(Cell::get).collect())
    }
}

#[inline]
fn place(microseconds: u64) -> usize {
    // So that the shortest times have places of their own.
    let time = microseconds.saturating_add(u64::from(STEPS));
    let exponent = time.ilog2();
    let step = (time >> (exponent - 2)) & u64::from(STEPS - 1);
    let place = (exponent - 2) as usize * STEPS as usize + step as usize;
    place.min(COUNT - 1)
}

/// The longest time that is counted at a place.
fn end(place: usize) -> u64 {
    let (octave, step) = (place / STEPS as usize, place % STEPS as usize);
    ((u64::from(STEPS) + step as u64 + 1) << octave) - 1 - u64::from(STEPS)
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        for (count, more) in self.0.iter_mut().zip(&other.0) {
            *count += more;
        }
    }

    /// What was counted since then.
    pub fn since(&self, before: &Counts) -> Counts {
        let each = self.0.iter().zip(&before.0);
        Counts(each.map(|(now, then)| now.saturating_sub(*then)).collect())
    }

    /// The longest time of each bucket, in microseconds, with how many took so long and longer than in the one before. The last has no longest.
    pub fn doublings(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        let octaves = COUNT / STEPS as usize;
        self.0
            .chunks(STEPS as usize)
            .enumerate()
            .map(move |(octave, counts)| {
                let longest = end(octave * STEPS as usize + STEPS as usize - 1);
                let is_last = octave + 1 == octaves;
                ((!is_last).then_some(longest), counts.iter().sum())
            })
    }

    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// So many of a hundred requests took no longer than this, in microseconds; at most a fourth too much. `None`: there were none.
    pub fn percentile(&self, percent: u64) -> Option<u64> {
        let total = self.total();
        let wanted = (total * percent).div_ceil(100).max(1);
        let mut counted = 0;
        let found = self.0.iter().position(|count| {
            counted += count;
            counted >= wanted
        });
        found.filter(|_| total > 0).map(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_follow_each_other() {
        let mut last = 0;
        for time in 0..100_000_u64 {
            let here = place(time);
            assert!(here == last || here == last + 1, "{time}");
            assert!(time <= end(here), "{time} {here} {}", end(here));
            assert!(end(here) <= time.max(4) + time.max(4) / 4 + 1, "{time}");
            last = here;
        }
        assert!(place(u64::MAX) < COUNT);
    }

    #[test]
    fn buckets_double_and_hold_all() {
        let latency = Latency::default();
        for time in [1, 3, 4, 11, 12, 1000, u64::MAX] {
            latency.note(time);
        }
        let buckets: Vec<_> = latency.counts().doublings().collect();
        assert_eq!(buckets[..3], [(Some(3), 2), (Some(11), 2), (Some(27), 1)]);
        assert_eq!(buckets.last(), Some(&(None, 1)));
        assert_eq!(buckets.iter().map(|(_, count)| count).sum::<u64>(), 7);
    }

    #[test]
    fn percentiles() {
        let latency = Latency::default();
        assert_eq!(latency.counts().percentile(99), None);
        for time in 1..=1000 {
            latency.note(time);
        }
        let before = latency.counts();
        let found = before.percentile(99).unwrap();
        assert!((990..1240).contains(&found), "{found}");
        latency.note(1_000_000);
        let since = latency.counts().since(&before);
        assert_eq!(since.total(), 1);
        assert!(since.percentile(50).unwrap() >= 1_000_000);
    }
}
