//! What can be wrong with a map, and with a key that has no place on it.

use std::fmt;

use thiserror::Error;

use super::key::KeyType;

/// A strategy as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StrategyName {
    Hash,
    Xxh3,
    Modulo,
    Range,
    List,
    Geo,
}

impl StrategyName {
    pub fn as_str(self) -> &'static str {
        match self {
            StrategyName::Hash => "hash",
            StrategyName::Xxh3 => "hash (xxh3)",
            StrategyName::Modulo => "hash (modulo)",
            StrategyName::Range => "range",
            StrategyName::List => "list",
            StrategyName::Geo => "geo",
        }
    }

    /// The types a key column of this strategy may have, as a message lists them.
    fn allowed_types(self) -> &'static str {
        match self {
            StrategyName::Hash | StrategyName::Xxh3 | StrategyName::List => "every key type",
            StrategyName::Modulo => "smallint, integer, bigint",
            StrategyName::Range => {
                "smallint, integer, bigint, text, varchar, char, uuid, date, timestamp, timestamptz"
            }
            StrategyName::Geo => "text, varchar, char for its first column",
        }
    }
}

impl fmt::Display for StrategyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A mistake in a map. Places count from 0 in the lists as they were given; the text leaves them to who knows the lines of the file.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MapError {
    #[error("a distribution needs at least one key column")]
    NoKey,
    #[error("the {strategy} strategy takes at most {most} key columns, not {columns}")]
    KeyColumns {
        strategy: StrategyName,
        columns: usize,
        most: usize,
    },
    #[error("the {strategy} strategy cannot use a key column of type {key_type}: allowed are {allowed}", key_type = key_type.name(), allowed = strategy.allowed_types())]
    TypeUnusable {
        strategy: StrategyName,
        column: usize,
        key_type: KeyType,
    },
    #[error("a value is not of the key's type {key_type}, or is not as that type stores it", key_type = key_type.name())]
    ValueOfOtherType { entry: usize, key_type: KeyType },
    #[error("at least one shard is needed")]
    NoShards,
    #[error("the same shard is named twice")]
    ShardTwice { first: usize, second: usize },
    #[error("the number of buckets must be a power of two from 1 to {most}, not {buckets}", most = super::buckets::MOST_BUCKETS)]
    BucketCount { buckets: u32 },
    #[error(
        "{shards} shards cannot share {buckets} buckets: at least one bucket a shard is needed"
    )]
    MoreShardsThanBuckets { shards: usize, buckets: u32 },
    #[error("the run of buckets {first} to {last} ends before it begins")]
    RunReversed { entry: usize, first: u32, last: u32 },
    #[error("bucket {bucket} does not exist: buckets are 0 to {last}", last = buckets - 1)]
    BucketOutOfRange {
        entry: usize,
        bucket: u32,
        buckets: u32,
    },
    #[error("{} assigned twice", buckets_are(*from, *to))]
    BucketsTwice {
        first_entry: usize,
        second_entry: usize,
        from: u32,
        to: u32,
    },
    #[error("{} assigned to no shard", buckets_are(*from, *to))]
    BucketsUnassigned { from: u32, to: u32 },
    #[error("at least one range is needed")]
    NoRanges,
    #[error("the range is empty: its end is exclusive and must be greater than its beginning")]
    RangeEmpty { range: usize },
    #[error("two ranges overlap")]
    RangesOverlap { first: usize, second: usize },
    #[error("at least one listed value or a default shard is needed")]
    NoValues,
    #[error("the entry lists no value")]
    EntryWithoutValues { entry: usize },
    #[error("the value {value} is listed twice")]
    ValueTwice {
        first: usize,
        second: usize,
        value: Box<str>,
    },
    #[error("at least one region is needed")]
    NoRegions,
    #[error("two regions have the same name")]
    RegionTwice { first: usize, second: usize },
    #[error("the default region does not exist")]
    UnknownDefaultRegion,
    #[error("a region with several shards needs a second key column, which is hashed among them")]
    RegionNeedsSecondColumn { region: usize },
    #[error("in a region: {error}")]
    InRegion { region: usize, error: Box<MapError> },
    #[error("a pin gives {given} key values, the key has {columns} columns")]
    PinColumns {
        pin: usize,
        given: usize,
        columns: usize,
    },
    #[error("a pin's value is not of the key's type {key_type}", key_type = key_type.name())]
    PinOfOtherType { pin: usize, key_type: KeyType },
    #[error("the same key is pinned twice")]
    PinTwice { first: usize, second: usize },
}

fn buckets_are(from: u32, to: u32) -> String {
    if from == to {
        format!("bucket {from} is")
    } else {
        format!("buckets {from} to {to} are")
    }
}

/// Why a key has no place.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LocateError {
    #[error("the key {key} lies outside every range of its distribution")]
    OutsideRanges { key: Box<str> },
    #[error("the key {key} is not listed in its distribution, which has no default shard")]
    NotListed { key: Box<str> },
    #[error("'{value}' belongs to no region of its distribution, which has no default region")]
    UnknownRegion { value: Box<str> },
    #[error("the key does not have the columns and types of its distribution")]
    WrongKey,
}
