//! `key % n`, for fleets that an application sharded so before.
//!
//! The remainder is the mathematical one, from 0 to n - 1 for negative keys too: -1 of 4 shards lives on place 3. (SQL's `%` gives -1
//! there; an application that stored negative keys otherwise cannot use this strategy.)

use super::key::{KeyType, KeyValue};
use super::{LocateError, MapError, ShardId, StrategyName};

/// Remainder to shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Modulo {
    /// One entry a remainder, so n is its length.
    shards: Box<[ShardId]>,
}

impl Modulo {
    /// The shard of each remainder, from 0; a shard may appear several times.
    pub fn new(shards: &[ShardId]) -> Result<Modulo, Vec<MapError>> {
        if shards.is_empty() {
            return Err(vec![MapError::NoShards]);
        }
        Ok(Modulo {
            shards: shards.into(),
        })
    }

    /// The shard of each remainder.
    pub fn shards(&self) -> &[ShardId] {
        &self.shards
    }

    pub(super) fn check(&self, key: &[KeyType]) -> Vec<MapError> {
        super::check_one_column(StrategyName::Modulo, key, KeyType::is_integer)
    }

    /// The remainder and its shard.
    pub fn locate(&self, key: &KeyValue) -> Result<(u32, ShardId), LocateError> {
        let KeyValue::Int(whole) = key else {
            return Err(LocateError::WrongKey);
        };
        let count = i64::try_from(self.shards.len()).expect("a list in memory");
        let remainder = whole.rem_euclid(count);
        let place = usize::try_from(remainder).expect("a mathematical remainder is not negative");
        Ok((
            u32::try_from(remainder).expect("fewer shards than 2^32"),
            self.shards[place],
        ))
    }
}
