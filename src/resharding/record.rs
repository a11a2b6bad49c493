//! Shard maps as they are stored with a plan: shards by name, values so that they are read back exactly.
//!
//! The moves are not stored: they are what differs between the two maps, whoever looks.

use serde::{Deserialize, Serialize};

use crate::sharding::buckets::{Assignment, Buckets};
use crate::sharding::geo::{self, Geo};
use crate::sharding::hash::{Function, Hash};
use crate::sharding::list::{self, List};
use crate::sharding::modulo::Modulo;
use crate::sharding::pin;
use crate::sharding::range::{self, Ranges};
use crate::sharding::{KeyType, KeyValue, MapError, ShardId, ShardMap, Strategy};

use super::difference::Unmovable;

/// One distribution of a plan, before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub distribution: Box<str>,
    pub before: StoredMap,
    pub after: StoredMap,
}

/// A shard map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredMap {
    key: Vec<Box<str>>,
    strategy: StoredStrategy,
    pins: Vec<(Vec<StoredValue>, Box<str>)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum StoredStrategy {
    Hash {
        function: StoredFunction,
        buckets: u32,
        runs: Vec<(u32, u32, Box<str>)>,
    },
    Modulo(Vec<Box<str>>),
    Range(Vec<(Option<StoredValue>, Option<StoredValue>, Box<str>)>),
    List {
        entries: Vec<(Vec<StoredValue>, Box<str>)>,
        default: Option<Box<str>>,
    },
    Geo {
        regions: Vec<StoredRegion>,
        default: Option<Box<str>>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum StoredFunction {
    Postgres,
    Xxh3,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredRegion {
    name: Box<str>,
    values: Vec<Box<str>>,
    shards: Vec<Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum StoredValue {
    Int(i64),
    Text(Box<str>),
    Uuid([u8; 16]),
    Date(i32),
    Timestamp(i64),
    /// In digits: JSON's numbers are too small.
    Numeric(String),
    Bytea(Vec<u8>),
}

/// Why a stored map cannot be taken into use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoredError {
    #[error("the plan names the shard {0}, which the configuration does not have")]
    Shard(Box<str>),
    #[error("the plan names the key type {0}, which this program does not know")]
    KeyType(Box<str>),
    #[error("the plan holds {0} where a number should be")]
    Number(Box<str>),
    #[error("the plan's map does not fit together: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Map(Vec<MapError>),
    #[error("the plan's maps do not follow from each other: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Unmovable(Vec<Unmovable>),
}

impl StoredMap {
    /// `shards`: names by number.
    pub fn of(map: &ShardMap, shards: &[Box<str>]) -> StoredMap {
        let name = |shard: ShardId| shards[shard.index()].clone();
        let strategy = match map.strategy() {
            Strategy::Hash(hash) => StoredStrategy::Hash {
                function: match hash.function() {
                    Function::Postgres => StoredFunction::Postgres,
                    Function::Xxh3 => StoredFunction::Xxh3,
                },
                buckets: hash.buckets().count(),
                runs: hash
                    .buckets()
                    .runs()
                    .into_iter()
                    .map(|(first, last, shard)| (first, last, name(shard)))
                    .collect(),
            },
            Strategy::Modulo(modulo) => {
                StoredStrategy::Modulo(modulo.shards().iter().map(|shard| name(*shard)).collect())
            }
            Strategy::Range(ranges) => StoredStrategy::Range(
                ranges
                    .sorted()
                    .iter()
                    .map(|range| {
                        let bound = |value: &Option<KeyValue>| value.as_ref().map(StoredValue::of);
                        (bound(&range.from), bound(&range.to), name(range.shard))
                    })
                    .collect(),
            ),
            Strategy::List(list) => StoredStrategy::List {
                entries: list
                    .entries()
                    .iter()
                    .map(|entry| (values_of(&entry.values), name(entry.shard)))
                    .collect(),
                default: list.default_shard().map(name),
            },
            Strategy::Geo(geo) => StoredStrategy::Geo {
                regions: geo
                    .regions()
                    .iter()
                    .map(|region| StoredRegion {
                        name: region.name.clone(),
                        values: region.values.clone(),
                        shards: region.shards.iter().map(|shard| name(*shard)).collect(),
                    })
                    .collect(),
                default: geo.default_region().map(|region| region.name.clone()),
            },
        };
        StoredMap {
            key: map
                .key_types()
                .iter()
                .map(|one| one.name().into())
                .collect(),
            strategy,
            pins: map
                .pins()
                .iter()
                .map(|pin| (values_of(&pin.key), name(pin.shard)))
                .collect(),
        }
    }

    /// The map again, with the shards' numbers of now.
    pub fn map(&self, shards: &[Box<str>]) -> Result<ShardMap, StoredError> {
        let names = Names(shards);
        let key = self
            .key
            .iter()
            .map(|name| KeyType::parse_name(name).ok_or_else(|| StoredError::KeyType(name.clone())))
            .collect::<Result<Vec<_>, _>>()?;
        let pins = self
            .pins
            .iter()
            .map(|(key, shard)| {
                Ok(pin::Pin {
                    key: values(key)?,
                    shard: names.id(shard)?,
                })
            })
            .collect::<Result<Vec<_>, StoredError>>()?;
        ShardMap::new(key, self.strategy(&names)?, pins).map_err(StoredError::Map)
    }

    fn strategy(&self, names: &Names<'_>) -> Result<Strategy, StoredError> {
        Ok(match &self.strategy {
            StoredStrategy::Hash {
                function,
                buckets,
                runs,
            } => {
                let function = match function {
                    StoredFunction::Postgres => Function::Postgres,
                    StoredFunction::Xxh3 => Function::Xxh3,
                };
                let runs = runs
                    .iter()
                    .map(|(first, last, shard)| {
                        Ok(Assignment {
                            shard: names.id(shard)?,
                            runs: vec![(*first, *last)],
                        })
                    })
                    .collect::<Result<Vec<_>, StoredError>>()?;
                let buckets = Buckets::assigned(*buckets, &runs).map_err(StoredError::Map)?;
                Strategy::Hash(Hash::new(function, buckets))
            }
            StoredStrategy::Modulo(shards) => {
                Strategy::Modulo(Modulo::new(&names.ids(shards)?).map_err(StoredError::Map)?)
            }
            StoredStrategy::Range(ranges) => {
                let ranges = ranges
                    .iter()
                    .map(|(from, to, shard)| {
                        Ok(range::Range {
                            from: from.as_ref().map(StoredValue::value).transpose()?,
                            to: to.as_ref().map(StoredValue::value).transpose()?,
                            shard: names.id(shard)?,
                        })
                    })
                    .collect::<Result<Vec<_>, StoredError>>()?;
                Strategy::Range(Ranges::new(ranges).map_err(StoredError::Map)?)
            }
            StoredStrategy::List { entries, default } => {
                let entries = entries
                    .iter()
                    .map(|(listed, shard)| {
                        Ok(list::Entry {
                            values: values(listed)?,
                            shard: names.id(shard)?,
                        })
                    })
                    .collect::<Result<Vec<_>, StoredError>>()?;
                let default = default.as_deref().map(|name| names.id(name)).transpose()?;
                Strategy::List(List::new(entries, default).map_err(StoredError::Map)?)
            }
            StoredStrategy::Geo { regions, default } => {
                let made = regions
                    .iter()
                    .map(|region| {
                        Ok(geo::Region {
                            name: region.name.clone(),
                            values: region.values.clone(),
                            shards: names.ids(&region.shards)?,
                        })
                    })
                    .collect::<Result<Vec<_>, StoredError>>()?;
                let default = default
                    .as_ref()
                    .and_then(|name| regions.iter().position(|region| region.name == *name));
                Strategy::Geo(Geo::new(made, default).map_err(StoredError::Map)?)
            }
        })
    }
}

struct Names<'a>(&'a [Box<str>]);

impl Names<'_> {
    fn id(&self, name: &str) -> Result<ShardId, StoredError> {
        self.0
            .iter()
            .position(|known| **known == *name)
            .and_then(|place| u16::try_from(place).ok())
            .map(ShardId)
            .ok_or_else(|| StoredError::Shard(name.into()))
    }

    fn ids(&self, names: &[Box<str>]) -> Result<Vec<ShardId>, StoredError> {
        names.iter().map(|name| self.id(name)).collect()
    }
}

fn values_of(values: &[KeyValue]) -> Vec<StoredValue> {
    values.iter().map(StoredValue::of).collect()
}

fn values(stored: &[StoredValue]) -> Result<Vec<KeyValue>, StoredError> {
    stored.iter().map(StoredValue::value).collect()
}

impl StoredValue {
    fn of(value: &KeyValue) -> StoredValue {
        match value {
            KeyValue::Int(whole) => StoredValue::Int(*whole),
            KeyValue::Text(text) => StoredValue::Text(text.clone()),
            KeyValue::Uuid(bytes) => StoredValue::Uuid(*bytes),
            KeyValue::Date(days) => StoredValue::Date(*days),
            KeyValue::Timestamp(micros) => StoredValue::Timestamp(*micros),
            KeyValue::Numeric(whole) => StoredValue::Numeric(whole.to_string()),
            KeyValue::Bytea(bytes) => StoredValue::Bytea(bytes.to_vec()),
        }
    }

    fn value(&self) -> Result<KeyValue, StoredError> {
        Ok(match self {
            StoredValue::Int(whole) => KeyValue::Int(*whole),
            StoredValue::Text(text) => KeyValue::Text(text.clone()),
            StoredValue::Uuid(bytes) => KeyValue::Uuid(*bytes),
            StoredValue::Date(days) => KeyValue::Date(*days),
            StoredValue::Timestamp(micros) => KeyValue::Timestamp(*micros),
            StoredValue::Numeric(digits) => KeyValue::Numeric(
                digits
                    .parse()
                    .map_err(|_| StoredError::Number(digits.as_str().into()))?,
            ),
            StoredValue::Bytea(bytes) => KeyValue::Bytea(bytes.as_slice().into()),
        })
    }
}
