//! From a key's value to a shard: pure functions, one file a strategy.
//!
//! This room never reads configuration, SQL or the network: it is handed typed key values and answers with a shard.
//! Read `key.rs` for the values, then the strategy you care about; `error.rs` has all that can be wrong with a map.

pub mod buckets;
mod error;
pub mod geo;
pub mod hash;
pub mod key;
pub mod list;
pub mod modulo;
pub mod pin;
pub mod range;

use std::sync::Arc;

pub use error::{LocateError, MapError, StrategyName};
pub use key::{KeyError, KeyType, KeyValue};

/// Most columns a key may have: as many as a partition key of Postgres.
pub const MOST_KEY_COLUMNS: usize = 32;

/// The number of a shard: its place in the configuration's list of shards, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

impl ShardId {
    /// The place of this shard in a table indexed by shard.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Where one key lives, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    pub shard: ShardId,
    pub via: Via,
}

/// What led from the key to its shard; shown by `trunkline route`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    /// Hash strategies: the bucket's number; modulo: the remainder.
    Bucket(u32),
    /// Range strategy: the place of the range in the sorted list.
    Range(usize),
    /// List strategy: the value is listed.
    Listed,
    /// List strategy: no value matched and a default shard is set.
    Default,
    /// Geo strategy: the region's name, and the bucket inside it when the region has several shards.
    Region {
        region: Arc<str>,
        bucket: Option<u32>,
    },
    /// A key placed by hand.
    Pin,
}

/// How a key becomes a shard.
#[derive(Clone, Debug)]
pub enum Strategy {
    Hash(hash::Hash),
    Modulo(modulo::Modulo),
    Range(range::Ranges),
    List(list::List),
    Geo(geo::Geo),
}

impl Strategy {
    pub fn name(&self) -> StrategyName {
        match self {
            Strategy::Hash(hash) => match hash.function() {
                hash::Function::Postgres => StrategyName::Hash,
                hash::Function::Xxh3 => StrategyName::Xxh3,
            },
            Strategy::Modulo(_) => StrategyName::Modulo,
            Strategy::Range(_) => StrategyName::Range,
            Strategy::List(_) => StrategyName::List,
            Strategy::Geo(_) => StrategyName::Geo,
        }
    }

    /// What does not fit a key of these types.
    fn check(&self, key: &[KeyType]) -> Vec<MapError> {
        match self {
            Strategy::Hash(hash) => hash.check(key),
            Strategy::Modulo(modulo) => modulo.check(key),
            Strategy::Range(ranges) => ranges.check(key),
            Strategy::List(list) => list.check(key),
            Strategy::Geo(geo) => geo.check(key),
        }
    }

    fn locate(&self, key: &[KeyValue]) -> Result<(Via, ShardId), LocateError> {
        let first = key.first().ok_or(LocateError::WrongKey)?;
        match self {
            Strategy::Hash(hash) => {
                let (bucket, shard) = hash.locate(key);
                Ok((Via::Bucket(bucket), shard))
            }
            Strategy::Modulo(modulo) => modulo
                .locate(first)
                .map(|(remainder, shard)| (Via::Bucket(remainder), shard)),
            Strategy::Range(ranges) => ranges
                .locate(first)
                .map(|(place, shard)| (Via::Range(place), shard)),
            Strategy::List(list) => list.locate(first),
            Strategy::Geo(geo) => geo.locate(key),
        }
    }

    /// What each shard has, in the strategy's own words and order.
    fn pieces(&self) -> Vec<Piece> {
        match self {
            Strategy::Hash(hash) => hash
                .buckets()
                .runs()
                .into_iter()
                .map(Piece::of_run)
                .collect(),
            Strategy::Modulo(modulo) => {
                let count = modulo.shards().len();
                let piece = |(place, &shard): (usize, &ShardId)| Piece {
                    shard,
                    what: format!("key % {count} = {place}").into(),
                };
                modulo.shards().iter().enumerate().map(piece).collect()
            }
            Strategy::Range(ranges) => ranges.sorted().iter().map(Piece::of_range).collect(),
            Strategy::List(list) => {
                let rest = list.default_shard().map(|shard| Piece {
                    shard,
                    what: "all other values".into(),
                });
                list.entries()
                    .iter()
                    .map(Piece::of_entry)
                    .chain(rest)
                    .collect()
            }
            Strategy::Geo(geo) => geo.regions().iter().flat_map(Piece::of_region).collect(),
        }
    }
}

/// A piece of the key space and the shard that has it, as people read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub shard: ShardId,
    /// Like `buckets 0 to 1023`, `from 1 to before 100`, `'DE', 'FR'`, `region europe`.
    pub what: Box<str>,
}

impl Piece {
    fn of_run((first, last, shard): (u32, u32, ShardId)) -> Piece {
        let what = if first == last {
            format!("bucket {first}")
        } else {
            format!("buckets {first} to {last}")
        };
        Piece {
            shard,
            what: what.into(),
        }
    }

    fn of_range(range: &range::Range) -> Piece {
        let what = match (&range.from, &range.to) {
            (None, None) => "everything".to_owned(),
            (Some(from), None) => format!("from {from}"),
            (None, Some(to)) => format!("before {to}"),
            (Some(from), Some(to)) => format!("from {from} to before {to}"),
        };
        Piece {
            shard: range.shard,
            what: what.into(),
        }
    }

    fn of_entry(entry: &list::Entry) -> Piece {
        let values: Vec<String> = entry.values.iter().map(ToString::to_string).collect();
        Piece {
            shard: entry.shard,
            what: values.join(", ").into(),
        }
    }

    fn of_region(region: &geo::Region) -> Vec<Piece> {
        let piece = |&shard: &ShardId| Piece {
            shard,
            what: format!("region {}", region.name).into(),
        };
        region.shards.iter().map(piece).collect()
    }
}

/// A key space's whole map: pins first, then the strategy.
#[derive(Clone, Debug)]
pub struct ShardMap {
    key: Arc<[KeyType]>,
    strategy: Strategy,
    pins: pin::Pins,
}

impl ShardMap {
    /// All that does not fit together is reported at once; a strategy's own mistakes were reported when it was made.
    pub fn new(
        key: Vec<KeyType>,
        strategy: Strategy,
        pins: Vec<pin::Pin>,
    ) -> Result<ShardMap, Vec<MapError>> {
        let mut errors = Vec::new();
        if key.is_empty() {
            errors.push(MapError::NoKey);
        } else if key.len() > MOST_KEY_COLUMNS {
            errors.push(MapError::KeyColumns {
                strategy: strategy.name(),
                columns: key.len(),
                most: MOST_KEY_COLUMNS,
            });
        }
        errors.extend(strategy.check(&key));
        match pin::Pins::new(pins, &key) {
            Ok(pins) if errors.is_empty() => Ok(ShardMap {
                key: key.into(),
                strategy,
                pins,
            }),
            Ok(_) => Err(errors),
            Err(wrong) => Err(errors.into_iter().chain(wrong).collect()),
        }
    }

    /// The types of the key columns, in order.
    pub fn key_types(&self) -> &[KeyType] {
        &self.key
    }

    pub fn strategy(&self) -> &Strategy {
        &self.strategy
    }

    pub fn pins(&self) -> &[pin::Pin] {
        self.pins.listed()
    }

    /// The shard of a key: one value for each key column, in order.
    pub fn locate(&self, key: &[KeyValue]) -> Result<Location, LocateError> {
        if key.len() != self.key.len()
            || key
                .iter()
                .zip(&*self.key)
                .any(|(value, key_type)| !key_type.holds(value))
        {
            return Err(LocateError::WrongKey);
        }
        if let Some(shard) = self.pins.locate(key) {
            return Ok(Location {
                shard,
                via: Via::Pin,
            });
        }
        self.strategy
            .locate(key)
            .map(|(via, shard)| Location { shard, via })
    }

    /// What each shard has, pins not counted.
    pub fn pieces(&self) -> Vec<Piece> {
        self.strategy.pieces()
    }

    /// Every shard that can have a key of this map, once each, ascending.
    pub fn shards(&self) -> Vec<ShardId> {
        let pinned = self.pins.listed().iter().map(|pin| pin.shard);
        let mut shards: Vec<ShardId> = self
            .strategy
            .pieces()
            .into_iter()
            .map(|piece| piece.shard)
            .chain(pinned)
            .collect();
        shards.sort_unstable();
        shards.dedup();
        shards
    }

    /// For a hash strategy, the number of buckets of each shard that has any, ascending by shard.
    pub fn buckets_per_shard(&self) -> Vec<(ShardId, usize)> {
        let Strategy::Hash(hash) = &self.strategy else {
            return Vec::new();
        };
        let mut counts = std::collections::BTreeMap::new();
        for shard in hash.buckets().shards() {
            *counts.entry(*shard).or_insert(0) += 1;
        }
        counts.into_iter().collect()
    }
}

/// For strategies of one key column: its number and type.
fn check_one_column(
    strategy: StrategyName,
    key: &[KeyType],
    usable: fn(KeyType) -> bool,
) -> Vec<MapError> {
    let mut errors = Vec::new();
    if key.len() > 1 {
        errors.push(MapError::KeyColumns {
            strategy,
            columns: key.len(),
            most: 1,
        });
    }
    if let Some(&key_type) = key.first().filter(|key_type| !usable(**key_type)) {
        errors.push(MapError::TypeUnusable {
            strategy,
            column: 0,
            key_type,
        });
    }
    errors
}

#[cfg(test)]
mod tests;
