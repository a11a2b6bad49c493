//! Sets of keys, cut as a distribution's strategy cuts its key space: what a move carries.
//!
//! A set says for a key whether it is inside, by the same hash functions and comparisons that route statements; `condition.rs` says the
//! same to a server where a server can compute it.

use std::fmt;
use std::ops::RangeInclusive;

use crate::sharding::hash::{self, Function};
use crate::sharding::{KeyValue, geo};

/// A whole key: one value for each column.
pub type Key = Box<[KeyValue]>;

/// Buckets in runs, ascending, neither overlapping nor touching.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Runs(Vec<(u32, u32)>);

/// Keys from a bound on (`None`: open) to before another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub from: Option<KeyValue>,
    pub to: Option<KeyValue>,
}

/// Values of the first key column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Values {
    Only(Vec<KeyValue>),
    /// Those that are named nowhere else.
    AllBut(Vec<KeyValue>),
}

/// A piece of a key space. Nothing is said of keys placed by hand: see [`Keys`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySet {
    /// Keys whose hash, over `of` buckets (a power of two), is in one of these.
    Buckets {
        function: Function,
        of: u32,
        runs: Runs,
    },
    /// Keys with one of these mathematical remainders, ascending.
    Remainders { divisor: u32, remainders: Vec<u32> },
    /// Keys in one of these spans, ascending.
    Ranges(Vec<Span>),
    /// Keys whose first column has one of these values. With buckets, of them only those whose second column hashes (by Postgres's function,
    /// over [`geo::REGION_BUCKETS`]) into these.
    Values {
        values: Values,
        buckets: Option<Runs>,
    },
    /// Keys placed by hand, one by one.
    Pinned(Vec<Key>),
}

/// A set of keys without some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    pub set: KeySet,
    /// Keys that lie in the set and are placed by hand, so that they are no part of this.
    pub except: Vec<Key>,
}

impl Keys {
    /// Whether the key is one of these. The key has the columns and types of its distribution.
    pub fn contain(&self, key: &[KeyValue]) -> bool {
        self.set.contains(key) && !self.except.iter().any(|out| **out == *key)
    }
}

impl KeySet {
    /// Whether the key is inside, those placed by hand counted like any.
    pub fn contains(&self, key: &[KeyValue]) -> bool {
        match self {
            KeySet::Buckets { function, of, runs } => {
                let hash = match function {
                    Function::Postgres => hash::postgres(key),
                    Function::Xxh3 => hash::xxh3(key),
                };
                runs.contains(bucket(hash, *of))
            }
            KeySet::Remainders {
                divisor,
                remainders,
            } => match key.first() {
                Some(KeyValue::Int(whole)) => u32::try_from(whole.rem_euclid((*divisor).into()))
                    .is_ok_and(|remainder| remainders.binary_search(&remainder).is_ok()),
                _ => false,
            },
            KeySet::Ranges(spans) => key
                .first()
                .is_some_and(|value| spans.iter().any(|span| span.contains(value))),
            KeySet::Values { values, buckets } => {
                let named = key.first().is_some_and(|value| values.contain(value));
                let hashed = |runs: &Runs| {
                    key.get(1).is_some_and(|second| {
                        let hash = hash::postgres(std::slice::from_ref(second));
                        runs.contains(bucket(hash, geo::REGION_BUCKETS))
                    })
                };
                named && buckets.as_ref().is_none_or(hashed)
            }
            KeySet::Pinned(keys) => keys.iter().any(|pinned| **pinned == *key),
        }
    }
}

/// `hash % of`, where `of` is a power of two.
#[expect(
    clippy::cast_possible_truncation,
    reason = "less than a number of 32 bits"
)]
fn bucket(hash: u64, of: u32) -> u32 {
    (hash % u64::from(of)) as u32
}

impl Runs {
    /// Of buckets in ascending order.
    pub fn of(buckets: impl IntoIterator<Item = u32>) -> Runs {
        let mut runs = Runs::default();
        for bucket in buckets {
            runs.push(bucket);
        }
        runs
    }

    /// A bucket behind all others.
    fn push(&mut self, bucket: u32) {
        match self.0.last_mut() {
            Some((_, last)) if *last + 1 == bucket => *last = bucket,
            _ => self.0.push((bucket, bucket)),
        }
    }

    pub fn contains(&self, bucket: u32) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= bucket);
        after > 0 && bucket <= self.0[after - 1].1
    }

    /// Inclusive runs, ascending.
    pub fn ranges(&self) -> impl Iterator<Item = RangeInclusive<u32>> + '_ {
        self.0.iter().map(|&(first, last)| first..=last)
    }

    pub fn buckets(&self) -> impl Iterator<Item = u32> + '_ {
        self.ranges().flatten()
    }

    pub fn count(&self) -> usize {
        self.buckets().count()
    }
}

impl Span {
    pub fn contains(&self, value: &KeyValue) -> bool {
        self.from.as_ref().is_none_or(|from| from <= value)
            && self.to.as_ref().is_none_or(|to| value < to)
    }
}

impl Values {
    pub fn contain(&self, value: &KeyValue) -> bool {
        match self {
            Values::Only(named) => named.contains(value),
            Values::AllBut(named) => !named.contains(value),
        }
    }
}

/// Like `0-1023, 2048`.
impl fmt::Display for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (first, last)) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

/// Like `from 1 to before 100`.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.from, &self.to) {
            (None, None) => f.write_str("everything"),
            (Some(from), None) => write!(f, "from {from}"),
            (None, Some(to)) => write!(f, "before {to}"),
            (Some(from), Some(to)) => write!(f, "from {from} to before {to}"),
        }
    }
}

impl fmt::Display for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Values::Only(values) => f.write_str(&listed(values)),
            Values::AllBut(values) if values.is_empty() => f.write_str("all values"),
            Values::AllBut(values) => write!(f, "all values but {}", listed(values)),
        }
    }
}

impl fmt::Display for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeySet::Buckets { runs, .. } => write!(f, "{} {runs}", plural("bucket", runs.count())),
            KeySet::Remainders {
                divisor,
                remainders,
            } => write!(
                f,
                "key % {divisor} in {}",
                Runs::of(remainders.iter().copied())
            ),
            KeySet::Ranges(spans) => {
                let spans: Vec<_> = spans.iter().map(ToString::to_string).collect();
                f.write_str(&spans.join(", "))
            }
            KeySet::Values { values, buckets } => {
                write!(f, "{values}")?;
                buckets.as_ref().map_or(Ok(()), |runs| {
                    write!(f, ": {} {runs}", plural("bucket", runs.count()))
                })
            }
            KeySet::Pinned(keys) => write!(f, "{} {}", plural("key", keys.len()), all_of(keys)),
        }
    }
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.set)?;
        if !self.except.is_empty() {
            write!(
                f,
                ", without the pinned {} {}",
                plural("key", self.except.len()),
                all_of(&self.except)
            )?;
        }
        Ok(())
    }
}

/// A key as people write it: its value, or all values in parentheses.
pub fn shown(key: &[KeyValue]) -> String {
    match key {
        [one] => one.to_string(),
        several => format!("({})", listed(several)),
    }
}

fn all_of(keys: &[Key]) -> String {
    keys.iter()
        .map(|key| shown(key))
        .collect::<Vec<_>>()
        .join(", ")
}

fn listed(values: &[KeyValue]) -> String {
    values
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

fn plural(word: &str, count: usize) -> String {
    match count {
        1 => word.to_owned(),
        _ => format!("{word}s"),
    }
}
