//! Keys placed by hand, over any strategy.

use std::collections::HashMap;

use super::key::{KeyType, KeyValue};
use super::{MapError, ShardId};

/// One key and the shard it was placed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// One value for each key column.
    pub key: Vec<KeyValue>,
    pub shard: ShardId,
}

/// Whole key to shard.
#[derive(Clone, Debug, Default)]
pub struct Pins {
    listed: Box<[Pin]>,
    shards: HashMap<Box<[KeyValue]>, ShardId>,
}

impl Pins {
    pub fn new(pins: Vec<Pin>, key: &[KeyType]) -> Result<Pins, Vec<MapError>> {
        let mut errors = Vec::new();
        let mut seen: HashMap<&[KeyValue], usize> = HashMap::new();
        for (second, pin) in pins.iter().enumerate() {
            if pin.key.len() != key.len() {
                errors.push(MapError::PinColumns {
                    pin: second,
                    given: pin.key.len(),
                    columns: key.len(),
                });
            } else if let Some((_, key_type)) = pin
                .key
                .iter()
                .zip(key)
                .find(|(value, key_type)| !key_type.holds(value))
            {
                errors.push(MapError::PinOfOtherType {
                    pin: second,
                    key_type: *key_type,
                });
            }
            let first = *seen.entry(&pin.key).or_insert(second);
            if first != second {
                errors.push(MapError::PinTwice { first, second });
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let shards = pins
            .iter()
            .map(|pin| (pin.key.clone().into(), pin.shard))
            .collect();
        Ok(Pins {
            listed: pins.into(),
            shards,
        })
    }

    /// As they were given.
    pub fn listed(&self) -> &[Pin] {
        &self.listed
    }

    pub fn locate(&self, key: &[KeyValue]) -> Option<ShardId> {
        // Most maps have no pin, and hashing a key twice is not free.
        if self.shards.is_empty() {
            None
        } else {
            self.shards.get(key).copied()
        }
    }
}
