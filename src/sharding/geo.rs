//! Places: the first key column (a country code, a region's name) names a region, the region has its shards.
//!
//! In a region with several shards the second key column is hashed as a hash distribution of that one column would hash it
//! (Postgres's function), over [`REGION_BUCKETS`] buckets in equal runs. Values are compared byte for byte: `de` is not `DE`.

use std::collections::HashMap;
use std::sync::Arc;

use super::buckets::Buckets;
use super::hash;
use super::key::{KeyType, KeyValue};
use super::{LocateError, MapError, ShardId, StrategyName, Via};

/// Buckets in a region with several shards.
pub const REGION_BUCKETS: u32 = 4096;

/// One region as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    pub name: Box<str>,
    /// Values of the first key column.
    pub values: Vec<Box<str>>,
    /// More than one: the second key column is hashed among them.
    pub shards: Vec<ShardId>,
}

/// Value to region to shard.
#[derive(Clone, Debug)]
pub struct Geo {
    regions: Box<[Region]>,
    places: Box<[Place]>,
    /// Value of the first key column to the region's place.
    by_value: HashMap<Box<str>, usize>,
    default: Option<usize>,
}

/// What a lookup needs of a region.
#[derive(Clone, Debug)]
struct Place {
    name: Arc<str>,
    shards: Shards,
}

#[derive(Clone, Debug)]
enum Shards {
    One(ShardId),
    Several(Buckets),
}

impl Geo {
    /// `default`: the place of the region that values named nowhere belong to.
    pub fn new(regions: Vec<Region>, default: Option<usize>) -> Result<Geo, Vec<MapError>> {
        let mut errors = Vec::new();
        if regions.is_empty() {
            errors.push(MapError::NoRegions);
        }
        if default.is_some_and(|place| place >= regions.len()) {
            errors.push(MapError::UnknownDefaultRegion);
        }
        errors.extend(repeated_names(&regions));
        let mut by_value: HashMap<Box<str>, usize> = HashMap::new();
        for (place, region) in regions.iter().enumerate() {
            if region.values.is_empty() && default != Some(place) {
                errors.push(MapError::EntryWithoutValues { entry: place });
            }
            for value in &region.values {
                if let Some(first) = by_value.insert(value.clone(), place) {
                    errors.push(MapError::ValueTwice {
                        first,
                        second: place,
                        value: value.clone(),
                    });
                }
            }
        }
        let mut places = Vec::new();
        for (region, entry) in regions.iter().enumerate() {
            match shards_of(entry) {
                Ok(shards) => places.push(Place {
                    name: (*entry.name).into(),
                    shards,
                }),
                Err(inside) => errors.extend(inside.into_iter().map(|error| MapError::InRegion {
                    region,
                    error: Box::new(error),
                })),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Geo {
            regions: regions.into(),
            places: places.into(),
            by_value,
            default,
        })
    }

    /// As they were given.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The region of values that are named nowhere.
    pub fn default_region(&self) -> Option<&Region> {
        self.default.map(|place| &self.regions[place])
    }

    pub(super) fn check(&self, key: &[KeyType]) -> Vec<MapError> {
        let mut errors = Vec::new();
        if let Some(&first) = key.first().filter(|key_type| !key_type.is_text()) {
            errors.push(MapError::TypeUnusable {
                strategy: StrategyName::Geo,
                column: 0,
                key_type: first,
            });
        }
        if let Some(&key_type) = key.first().filter(|key_type| key_type.is_text()) {
            // A value that the key's type never has (`char` and `varchar` keys end in no blank) could not be found.
            let never =
                |value: &str| key_type.parse_text(value) != Ok(KeyValue::Text(value.into()));
            let wrong = self
                .regions
                .iter()
                .enumerate()
                .filter(|(_, region)| region.values.iter().any(|value| never(value)));
            errors.extend(wrong.map(|(entry, _)| MapError::ValueOfOtherType { entry, key_type }));
        }
        if key.len() > 2 {
            errors.push(MapError::KeyColumns {
                strategy: StrategyName::Geo,
                columns: key.len(),
                most: 2,
            });
        }
        if key.len() < 2 {
            let several = self
                .regions
                .iter()
                .enumerate()
                .filter(|(_, region)| region.shards.len() > 1);
            errors.extend(several.map(|(region, _)| MapError::RegionNeedsSecondColumn { region }));
        }
        errors
    }

    /// The region (with the bucket inside it when it has several shards) and the shard.
    pub fn locate(&self, key: &[KeyValue]) -> Result<(Via, ShardId), LocateError> {
        let Some(KeyValue::Text(value)) = key.first() else {
            return Err(LocateError::WrongKey);
        };
        let Some(place) = self.by_value.get(value).copied().or(self.default) else {
            return Err(LocateError::UnknownRegion {
                value: value.clone(),
            });
        };
        let Place { name, shards } = &self.places[place];
        let (bucket, shard) = match (shards, key.get(1)) {
            (Shards::One(shard), _) => (None, *shard),
            (Shards::Several(buckets), Some(second)) => {
                let (bucket, shard) = buckets.locate(hash::postgres(std::slice::from_ref(second)));
                (Some(bucket), shard)
            }
            (Shards::Several(_), None) => return Err(LocateError::WrongKey),
        };
        Ok((
            Via::Region {
                region: name.clone(),
                bucket,
            },
            shard,
        ))
    }
}

fn repeated_names(regions: &[Region]) -> Vec<MapError> {
    let mut errors = Vec::new();
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for (second, region) in regions.iter().enumerate() {
        let first = *seen.entry(&region.name).or_insert(second);
        if first != second {
            errors.push(MapError::RegionTwice { first, second });
        }
    }
    errors
}

fn shards_of(region: &Region) -> Result<Shards, Vec<MapError>> {
    match region.shards[..] {
        [one] => Ok(Shards::One(one)),
        _ => Buckets::even(REGION_BUCKETS, &region.shards).map(Shards::Several),
    }
}
