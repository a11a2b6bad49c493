//! Values listed one by one, each with its shard, and perhaps a shard for all others.

use std::collections::HashMap;

use super::key::{KeyType, KeyValue};
use super::{LocateError, MapError, ShardId, StrategyName, Via};

/// Some values and the shard they live on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub values: Vec<KeyValue>,
    pub shard: ShardId,
}

/// Value to shard.
#[derive(Clone, Debug)]
pub struct List {
    entries: Box<[Entry]>,
    shards: HashMap<KeyValue, ShardId>,
    default: Option<ShardId>,
}

impl List {
    pub fn new(entries: Vec<Entry>, default: Option<ShardId>) -> Result<List, Vec<MapError>> {
        let mut errors = Vec::new();
        if entries.is_empty() && default.is_none() {
            errors.push(MapError::NoValues);
        }
        let mut seen: HashMap<&KeyValue, usize> = HashMap::new();
        for (place, entry) in entries.iter().enumerate() {
            if entry.values.is_empty() {
                errors.push(MapError::EntryWithoutValues { entry: place });
            }
            for value in &entry.values {
                if let Some(first) = seen.insert(value, place) {
                    errors.push(MapError::ValueTwice {
                        first,
                        second: place,
                        value: value.to_string().into(),
                    });
                }
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let shards = entries
            .iter()
            .flat_map(|entry| {
                entry
                    .values
                    .iter()
                    .map(|value| (value.clone(), entry.shard))
            })
            .collect();
        Ok(List {
            entries: entries.into(),
            shards,
            default,
        })
    }

    /// As they were given.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The shard of all values that are not listed.
    pub fn default_shard(&self) -> Option<ShardId> {
        self.default
    }

    pub(super) fn check(&self, key: &[KeyType]) -> Vec<MapError> {
        let mut errors = super::check_one_column(StrategyName::List, key, |_| true);
        if let Some(&key_type) = key.first() {
            let wrong = |entry: &Entry| entry.values.iter().any(|value| !key_type.holds(value));
            let places = self
                .entries
                .iter()
                .enumerate()
                .filter(|(_, entry)| wrong(entry));
            errors.extend(places.map(|(entry, _)| MapError::ValueOfOtherType { entry, key_type }));
        }
        errors
    }

    pub fn locate(&self, key: &KeyValue) -> Result<(Via, ShardId), LocateError> {
        match (self.shards.get(key), self.default) {
            (Some(shard), _) => Ok((Via::Listed, *shard)),
            (None, Some(shard)) => Ok((Via::Default, shard)),
            (None, None) => Err(LocateError::NotListed {
                key: key.to_string().into(),
            }),
        }
    }
}
