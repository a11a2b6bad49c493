//! From a key's value to a shard: pure functions, one file a strategy.
//!
//! This room never reads configuration, SQL or the network: it is handed typed key values and answers with a shard.
//! Read `key.rs` for the values, then the strategy you care about.

pub mod key;

pub use key::{KeyError, KeyType, KeyValue};

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
    /// Hash strategies: the bucket's number.
    Bucket(u32),
    /// Range strategy: the place of the range in the sorted list.
    Range(usize),
    /// List strategy: the value is listed.
    Listed,
    /// List strategy: no value matched and a default shard is set.
    Default,
    /// Geo strategy: the region's name, and the bucket inside it when the region has several shards.
    Region {
        region: Box<str>,
        bucket: Option<u32>,
    },
    /// A key placed by hand.
    Pin,
}

/// A key space's whole map: pins first, then the strategy.
#[derive(Clone, Debug)]
pub struct ShardMap {}
