//! From what an operator wrote to the map that shall be: each change makes one map of another, with as few keys moved as the change allows.
//!
//! Nothing is guessed: where rows would have to be counted (half of a range), or a pinned key would be left without a word, the change is
//! refused with what to write instead.

use std::collections::{BTreeMap, BTreeSet};

use crate::sharding::buckets::{Assignment, Buckets};
use crate::sharding::geo::{Geo, Region};
use crate::sharding::hash::Hash;
use crate::sharding::list::{Entry, List};
use crate::sharding::modulo::Modulo;
use crate::sharding::pin::Pin;
use crate::sharding::range::{Range, Ranges};
use crate::sharding::{KeyError, KeyType, KeyValue, MapError, ShardId, ShardMap, Strategy};

use super::difference::{Difference, Unmovable, difference};
use super::keys::{Span, shown};
use super::language::{Change, Share, WHOLE, What, percent_shown};
use super::layout::{later_start, overlay};

/// A distribution whose map changes.
#[derive(Clone, Debug)]
pub struct Planned {
    pub distribution: Box<str>,
    pub before: ShardMap,
    pub after: ShardMap,
    pub difference: Difference,
}

/// A key space with its name, as the catalog has it.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    pub name: &'a str,
    pub map: &'a ShardMap,
}

/// Why there is no such map, or no way to it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WantedError {
    #[error("there is no shard {name}; there are {known}")]
    Shard { name: Box<str>, known: Box<str> },
    #[error("there is no distribution {name}; there are {known}")]
    Distribution { name: Box<str>, known: Box<str> },
    #[error("there are several distributions: write FOR and one of {known} behind the change")]
    WhichDistribution { known: Box<str> },
    #[error("{what} does not fit {distribution}, whose strategy is {strategy}: {instead}")]
    Strategy {
        what: &'static str,
        distribution: Box<str>,
        strategy: &'static str,
        instead: &'static str,
    },
    #[error("{shard} has nothing of {distribution}")]
    HasNothing {
        shard: Box<str>,
        distribution: Box<str>,
    },
    #[error("{shard} is on the left of two arrows; say in one place what becomes of it")]
    SourceTwice { shard: Box<str> },
    #[error(
        "{part}% of {} is not one: give a greater part, or a list of remainders that repeats (which moves nothing) first",
        pieces(*units)
    )]
    TooSmall { part: Box<str>, units: usize },
    #[error("bucket {bucket} does not exist: buckets are 0 to {last}")]
    Bucket { bucket: u32, last: usize },
    #[error("a key of {distribution} has {columns} {}, and {given} {} given", if *columns == 1 { "column" } else { "columns" }, if *given == 1 { "value is" } else { "values are" })]
    KeyColumns {
        distribution: Box<str>,
        columns: usize,
        given: usize,
    },
    #[error("{0}")]
    Key(#[from] KeyError),
    #[error("the range ends before it begins")]
    EmptyRange,
    #[error(
        "no shard has keys {gap}, so there is nothing to move: give the range a shard in the configuration, and PLAN .. FROM CONFIG"
    )]
    Gap { gap: Box<str> },
    #[error(
        "{value} has no shard, so there is nothing to move: give it one in the configuration, and PLAN .. FROM CONFIG"
    )]
    NotListed { value: Box<str> },
    #[error("there is no region {name} in {distribution}; there are {known}")]
    Region {
        name: Box<str>,
        distribution: Box<str>,
        known: Box<str>,
    },
    #[error("{distribution} has no shard for values that are not listed")]
    NoDefault { distribution: Box<str> },
    #[error(
        "the key {key} is pinned on {shard}, which would have nothing else: say first where it goes, with MOVE KEY {key} TO shard AND ..."
    )]
    PinStays { key: Box<str>, shard: Box<str> },
    #[error("{shard} has all of {distribution}: say where it goes, with DRAIN {shard} TO shard")]
    NowhereElse {
        shard: Box<str>,
        distribution: Box<str>,
    },
    #[error("the map of {distribution} would not fit together: {}", .errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Map {
        distribution: Box<str>,
        errors: Vec<MapError>,
    },
    #[error("{distribution}: {}", .errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Unmovable {
        distribution: Box<str>,
        errors: Vec<Unmovable>,
    },
    #[error("nothing would move: the map is as wanted")]
    Nothing,
}

fn pieces(units: usize) -> String {
    match units {
        1 => "1 piece".to_owned(),
        units => format!("{units} pieces"),
    }
}

/// What changes make of these distributions. `shards`: names by number.
pub fn by_changes(
    changes: &[Change],
    known: &[Known<'_>],
    shards: &[Box<str>],
) -> Result<Vec<Planned>, WantedError> {
    let mut maps: Vec<ShardMap> = known.iter().map(|one| one.map.clone()).collect();
    for change in changes {
        let only = change
            .distribution
            .as_deref()
            .map(|name| find(known, name))
            .transpose()?;
        if only.is_none() && known.len() > 1 && is_of_one(&change.what) {
            return Err(WantedError::WhichDistribution {
                known: names(known),
            });
        }
        let mut nothing = None;
        let mut changed = false;
        for (place, map) in maps.iter_mut().enumerate() {
            if only.is_some_and(|only| only != place) {
                continue;
            }
            let draft = Draft {
                name: known[place].name,
                map,
                shards,
            };
            match draft.changed(&change.what) {
                Ok(after) => {
                    *map = after;
                    changed = true;
                }
                // A shard may well have keys of some distributions only.
                Err(WantedError::HasNothing {
                    shard,
                    distribution,
                }) => {
                    let distribution = match known.len() > 1 && only.is_none() {
                        true => "any distribution".into(),
                        false => distribution,
                    };
                    nothing = Some(WantedError::HasNothing {
                        shard,
                        distribution,
                    });
                }
                Err(error) => return Err(error),
            }
        }
        match nothing {
            Some(error) if !changed => return Err(error),
            _ => {}
        }
    }
    planned(known, maps)
}

/// What another map (the configuration's) makes of these distributions, by their names; those that it does not have stay.
pub fn by_configuration(
    wanted: &[Known<'_>],
    only: Option<&str>,
    known: &[Known<'_>],
) -> Result<Vec<Planned>, WantedError> {
    let only = only.map(|name| find(known, name)).transpose()?;
    let maps = known.iter().enumerate().map(|(place, one)| {
        let other = wanted.iter().find(|other| other.name == one.name);
        match other.filter(|_| only.is_none_or(|only| only == place)) {
            Some(other) => other.map.clone(),
            None => one.map.clone(),
        }
    });
    planned(known, maps.collect())
}

fn planned(known: &[Known<'_>], maps: Vec<ShardMap>) -> Result<Vec<Planned>, WantedError> {
    let mut planned = Vec::new();
    for (one, after) in known.iter().zip(maps) {
        let difference = difference(one.map, &after).map_err(|errors| WantedError::Unmovable {
            distribution: one.name.into(),
            errors,
        })?;
        if !difference.is_nothing() {
            planned.push(Planned {
                distribution: one.name.into(),
                before: one.map.clone(),
                after,
                difference,
            });
        }
    }
    match planned.is_empty() {
        true => Err(WantedError::Nothing),
        false => Ok(planned),
    }
}

fn find(known: &[Known<'_>], name: &str) -> Result<usize, WantedError> {
    let found = known.iter().position(|one| one.name == name);
    found.ok_or_else(|| WantedError::Distribution {
        name: name.into(),
        known: names(known),
    })
}

fn names(known: &[Known<'_>]) -> Box<str> {
    let names: Vec<_> = known.iter().map(|one| one.name).collect();
    names.join(", ").into()
}

/// Whether the change names pieces of one key space, and not shards only.
fn is_of_one(what: &What) -> bool {
    match what {
        What::Shares(_) | What::Drain { .. } | What::Merge { .. } | What::Rebalance { .. } => false,
        What::Buckets { .. }
        | What::Range { .. }
        | What::Key { .. }
        | What::Values { .. }
        | What::OtherValues { .. }
        | What::Region { .. } => true,
    }
}

/// One map being changed.
struct Draft<'a> {
    name: &'a str,
    map: &'a ShardMap,
    shards: &'a [Box<str>],
}

impl Draft<'_> {
    fn changed(&self, what: &What) -> Result<ShardMap, WantedError> {
        match what {
            What::Shares(shares) => self.shares(shares),
            What::Buckets { runs, to } => self.buckets(runs, to),
            What::Range { from, before, to } => self.range(from.as_deref(), before.as_deref(), to),
            What::Key { key, to } => self.key(key, to),
            What::Values { values, to } => self.values(values, to),
            What::OtherValues { to } => self.other_values(to),
            What::Region { region, to } => self.region(region, to),
            What::Drain { shard, to } => self.drain(shard, to.as_deref()),
            What::Merge { shards, into } => {
                let shards = self.ids(shards)?;
                let into = self.id(into)?;
                let shards: BTreeSet<_> = shards.into_iter().filter(|one| *one != into).collect();
                self.has_something(&shards)?;
                self.replaced(&|shard| if shards.contains(&shard) { into } else { shard })
            }
            What::Rebalance { over } => self.rebalance(over),
        }
    }

    fn id(&self, name: &str) -> Result<ShardId, WantedError> {
        self.shards
            .iter()
            .position(|known| **known == *name)
            .and_then(|place| u16::try_from(place).ok())
            .map(ShardId)
            .ok_or_else(|| WantedError::Shard {
                name: name.into(),
                known: self.shards.join(", ").into(),
            })
    }

    fn ids(&self, names: &[String]) -> Result<Vec<ShardId>, WantedError> {
        names.iter().map(|name| self.id(name)).collect()
    }

    fn shard_name(&self, shard: ShardId) -> Box<str> {
        self.shards[shard.index()].clone()
    }

    /// At least one of the shards has a piece or a pin.
    fn has_something(&self, shards: &BTreeSet<ShardId>) -> Result<(), WantedError> {
        match self.map.shards().iter().any(|shard| shards.contains(shard)) {
            true => Ok(()),
            false => Err(WantedError::HasNothing {
                shard: shards
                    .iter()
                    .map(|shard| self.shard_name(*shard).into_string())
                    .collect::<Vec<_>>()
                    .join(", ")
                    .into(),
                distribution: self.name.into(),
            }),
        }
    }

    fn wrong_strategy<T>(
        &self,
        what: &'static str,
        instead: &'static str,
    ) -> Result<T, WantedError> {
        Err(WantedError::Strategy {
            what,
            distribution: self.name.into(),
            strategy: match self.map.strategy() {
                Strategy::Hash(_) => "hash",
                Strategy::Modulo(_) => "modulo",
                Strategy::Range(_) => "range",
                Strategy::List(_) => "list",
                Strategy::Geo(_) => "geo",
            },
            instead,
        })
    }

    fn map_errors(&self, errors: Vec<MapError>) -> WantedError {
        WantedError::Map {
            distribution: self.name.into(),
            errors,
        }
    }

    fn with(&self, strategy: Strategy, pins: Vec<Pin>) -> Result<ShardMap, WantedError> {
        ShardMap::new(self.map.key_types().to_vec(), strategy, pins)
            .map_err(|errors| self.map_errors(errors))
    }

    /// The same strategy, other pieces; pins as they are.
    fn with_strategy(&self, strategy: Strategy) -> Result<ShardMap, WantedError> {
        self.with(strategy, self.map.pins().to_vec())
    }

    /// The shard of each bucket or remainder; `None`: the strategy has no such pieces.
    fn units(&self) -> Option<Vec<ShardId>> {
        match self.map.strategy() {
            Strategy::Hash(hash) => Some(hash.buckets().shards().to_vec()),
            Strategy::Modulo(modulo) => Some(modulo.shards().to_vec()),
            Strategy::Range(_) | Strategy::List(_) | Strategy::Geo(_) => None,
        }
    }

    fn with_units(&self, units: &[ShardId], pins: Vec<Pin>) -> Result<ShardMap, WantedError> {
        let strategy = match self.map.strategy() {
            Strategy::Hash(hash) => {
                let runs: Vec<_> = (0..)
                    .zip(units)
                    .map(|(bucket, shard)| Assignment {
                        shard: *shard,
                        runs: vec![(bucket, bucket)],
                    })
                    .collect();
                let buckets = Buckets::assigned(hash.buckets().count(), &runs)
                    .map_err(|errors| self.map_errors(errors))?;
                Strategy::Hash(Hash::new(hash.function(), buckets))
            }
            _ => Strategy::Modulo(Modulo::new(units).map_err(|errors| self.map_errors(errors))?),
        };
        self.with(strategy, pins)
    }

    /// Every piece and pin on another shard, whole.
    fn replaced(&self, to: &dyn Fn(ShardId) -> ShardId) -> Result<ShardMap, WantedError> {
        let pins: Vec<Pin> = self
            .map
            .pins()
            .iter()
            .map(|pin| Pin {
                key: pin.key.clone(),
                shard: to(pin.shard),
            })
            .collect();
        let strategy = match self.map.strategy() {
            Strategy::Hash(_) | Strategy::Modulo(_) => {
                let units: Vec<_> = self.units().into_iter().flatten().map(to).collect();
                return self.with_units(&units, pins);
            }
            Strategy::Range(ranges) => {
                let ranges = ranges.sorted().iter().map(|range| Range {
                    shard: to(range.shard),
                    ..range.clone()
                });
                Ranges::new(ranges.collect()).map(Strategy::Range)
            }
            Strategy::List(list) => {
                let entries = list.entries().iter().map(|entry| Entry {
                    values: entry.values.clone(),
                    shard: to(entry.shard),
                });
                List::new(entries.collect(), list.default_shard().map(to)).map(Strategy::List)
            }
            Strategy::Geo(geo) => {
                let regions = geo.regions().iter().map(|region| {
                    let mut shards: Vec<ShardId> = Vec::new();
                    for shard in region.shards.iter().map(|shard| to(*shard)) {
                        if !shards.contains(&shard) {
                            shards.push(shard);
                        }
                    }
                    Region {
                        shards,
                        ..region.clone()
                    }
                });
                geo_of(geo, regions.collect()).map(Strategy::Geo)
            }
        };
        self.with(strategy.map_err(|errors| self.map_errors(errors))?, pins)
    }

    fn shares(&self, shares: &[Share]) -> Result<ShardMap, WantedError> {
        let mut seen = BTreeSet::new();
        for name in shares.iter().flat_map(|share| &share.sources) {
            if !seen.insert(self.id(name)?) {
                return Err(WantedError::SourceTwice {
                    shard: name.as_str().into(),
                });
            }
        }
        self.has_something(&seen)?;
        if shares.iter().all(|share| share.targets.len() == 1) {
            let mut ways = BTreeMap::new();
            for share in shares {
                let to = self.id(&share.targets[0].0)?;
                ways.extend(self.ids(&share.sources)?.into_iter().map(|from| (from, to)));
            }
            return self.replaced(&|shard| ways.get(&shard).copied().unwrap_or(shard));
        }
        let Some(before) = self.units() else {
            return self.wrong_strategy(
                "a part in percent",
                "how many rows a part of it has is not known; name the part, with MOVE RANGE, MOVE VALUES or MOVE REGION",
            );
        };
        let mut after = before.clone();
        for share in shares {
            let sources: BTreeSet<_> = self.ids(&share.sources)?.into_iter().collect();
            let units: Vec<usize> = places(&before, &sources);
            let quotas = self.quotas(share, units.len())?;
            deal(&before, &units, quotas, &mut after);
            self.pins_do_not_stay(&sources, &after)?;
        }
        self.with_units(&after, self.map.pins().to_vec())
    }

    /// How many of the pieces each target shall have: as near to its part as whole pieces allow.
    fn quotas(&self, share: &Share, units: usize) -> Result<Vec<(ShardId, usize)>, WantedError> {
        let mut quotas = Vec::new();
        for (name, part) in &share.targets {
            let exact = units * *part as usize;
            quotas.push((
                self.id(name)?,
                exact / WHOLE as usize,
                exact % WHOLE as usize,
            ));
        }
        let mut missing = units - quotas.iter().map(|(_, quota, _)| quota).sum::<usize>();
        let mut order: Vec<usize> = (0..quotas.len()).collect();
        order.sort_by_key(|place| std::cmp::Reverse(quotas[*place].2));
        for place in order {
            if missing > 0 {
                quotas[place].1 += 1;
                missing -= 1;
            }
        }
        let none = quotas.iter().position(|(_, quota, _)| *quota == 0);
        if let Some(place) = none.filter(|_| units > 0) {
            return Err(WantedError::TooSmall {
                part: percent_shown(share.targets[place].1).into(),
                units,
            });
        }
        Ok(quotas
            .into_iter()
            .map(|(shard, quota, _)| (shard, quota))
            .collect())
    }

    /// A pin on a shard that has lost all its pieces needs a word.
    fn pins_do_not_stay(
        &self,
        emptied: &BTreeSet<ShardId>,
        after: &[ShardId],
    ) -> Result<(), WantedError> {
        let stays = self
            .map
            .pins()
            .iter()
            .find(|pin| emptied.contains(&pin.shard) && !after.contains(&pin.shard));
        match stays {
            Some(pin) => Err(WantedError::PinStays {
                key: shown(&pin.key).into(),
                shard: self.shard_name(pin.shard),
            }),
            None => Ok(()),
        }
    }

    fn drain(&self, shard: &str, to: Option<&str>) -> Result<ShardMap, WantedError> {
        let drained = self.id(shard)?;
        self.has_something(&BTreeSet::from([drained]))?;
        if let Some(to) = to {
            let to = self.id(to)?;
            return self.replaced(&|shard| if shard == drained { to } else { shard });
        }
        let Some(before) = self.units() else {
            return self.wrong_strategy(
                "DRAIN without TO",
                "say where its pieces go, with DRAIN shard TO shard, or with a MOVE for each",
            );
        };
        if before.iter().all(|shard| *shard == drained) {
            return Err(WantedError::NowhereElse {
                shard: shard.into(),
                distribution: self.name.into(),
            });
        }
        let mut after = before.clone();
        let mut counts: BTreeMap<ShardId, usize> = BTreeMap::new();
        for shard in before.iter().filter(|shard| **shard != drained) {
            *counts.entry(*shard).or_default() += 1;
        }
        for place in places(&before, &BTreeSet::from([drained])) {
            // Each piece goes where there are fewest.
            let (to, count) = counts
                .iter_mut()
                .min_by_key(|(_, count)| **count)
                .expect("there are others");
            after[place] = *to;
            *count += 1;
        }
        self.pins_do_not_stay(&BTreeSet::from([drained]), &after)?;
        self.with_units(&after, self.map.pins().to_vec())
    }

    fn rebalance(&self, over: &[String]) -> Result<ShardMap, WantedError> {
        let Some(before) = self.units() else {
            return self.wrong_strategy(
                "REBALANCE",
                "how many rows its pieces have is not known; name the pieces, with MOVE RANGE, MOVE VALUES or MOVE REGION",
            );
        };
        let had: BTreeSet<ShardId> = before.iter().copied().collect();
        let mut over = match over.is_empty() {
            true => had.iter().copied().collect(),
            false => self.ids(over)?,
        };
        over.sort_unstable();
        over.dedup();
        let each = before.len() / over.len();
        let more = before.len() % over.len();
        if each == 0 {
            return Err(WantedError::TooSmall {
                part: percent_shown(WHOLE / u32::try_from(over.len()).unwrap_or(u32::MAX)).into(),
                units: before.len(),
            });
        }
        // Those who have most keep one more, so that fewer keys move.
        let count = |shard: &ShardId| before.iter().filter(|one| *one == shard).count();
        let mut order = over.clone();
        order.sort_by_key(|shard| std::cmp::Reverse(count(shard)));
        let quotas = order
            .iter()
            .enumerate()
            .map(|(place, shard)| (*shard, each + usize::from(place < more)))
            .collect();
        let mut after = before.clone();
        let units: Vec<usize> = (0..before.len()).collect();
        deal(&before, &units, quotas, &mut after);
        self.pins_do_not_stay(&had, &after)?;
        self.with_units(&after, self.map.pins().to_vec())
    }

    fn buckets(&self, runs: &[(u32, u32)], to: &str) -> Result<ShardMap, WantedError> {
        let Some(mut units) = self.units() else {
            return self.wrong_strategy(
                "MOVE BUCKETS",
                "its pieces are no buckets; write MOVE RANGE, MOVE VALUES or MOVE REGION",
            );
        };
        let to = self.id(to)?;
        for &(first, last) in runs {
            if last as usize >= units.len() {
                return Err(WantedError::Bucket {
                    bucket: last,
                    last: units.len() - 1,
                });
            }
            units[first as usize..=last as usize].fill(to);
        }
        self.with_units(&units, self.map.pins().to_vec())
    }

    fn value(&self, text: &str) -> Result<KeyValue, WantedError> {
        let first: KeyType = self.map.key_types()[0];
        Ok(first.parse_text(text)?)
    }

    fn range(
        &self,
        from: Option<&str>,
        before: Option<&str>,
        to: &str,
    ) -> Result<ShardMap, WantedError> {
        let Strategy::Range(ranges) = self.map.strategy() else {
            return self.wrong_strategy(
                "MOVE RANGE",
                "its pieces are no ranges; write MOVE BUCKETS, MOVE VALUES or MOVE REGION",
            );
        };
        let bound = |text: Option<&str>| text.map(|text| self.value(text)).transpose();
        let moved = Span {
            from: bound(from)?,
            to: bound(before)?,
        };
        if moved.is_empty() {
            return Err(WantedError::EmptyRange);
        }
        let mut spans: Vec<(Span, ShardId)> = ranges
            .sorted()
            .iter()
            .map(|range| {
                let span = Span {
                    from: range.from.clone(),
                    to: range.to.clone(),
                };
                (span, range.shard)
            })
            .collect();
        if let Some(gap) = gap(&spans, &moved) {
            return Err(WantedError::Gap {
                gap: gap.to_string().into(),
            });
        }
        overlay(&mut spans, &moved, self.id(to)?);
        let ranges = spans.into_iter().map(|(span, shard)| Range {
            from: span.from,
            to: span.to,
            shard,
        });
        let ranges = Ranges::new(ranges.collect()).map_err(|errors| self.map_errors(errors))?;
        self.with_strategy(Strategy::Range(ranges))
    }

    fn key(&self, key: &[String], to: &str) -> Result<ShardMap, WantedError> {
        let types = self.map.key_types();
        if key.len() != types.len() {
            return Err(WantedError::KeyColumns {
                distribution: self.name.into(),
                columns: types.len(),
                given: key.len(),
            });
        }
        let key = key
            .iter()
            .zip(types)
            .map(|(text, key_type)| key_type.parse_text(text))
            .collect::<Result<Vec<_>, _>>()?;
        if self.map.locate(&key).is_err() {
            return Err(WantedError::NotListed {
                value: shown(&key).into(),
            });
        }
        let shard = self.id(to)?;
        let mut pins: Vec<Pin> = self.map.pins().to_vec();
        pins.retain(|pin| pin.key != key);
        pins.push(Pin { key, shard });
        self.with(self.map.strategy().clone(), pins)
    }

    fn values(&self, values: &[String], to: &str) -> Result<ShardMap, WantedError> {
        let Strategy::List(list) = self.map.strategy() else {
            return self.wrong_strategy(
                "MOVE VALUES",
                "its pieces are no lists of values; write MOVE BUCKETS, MOVE RANGE, MOVE REGION or MOVE KEY",
            );
        };
        let to = self.id(to)?;
        let mut moved = Vec::new();
        for text in values {
            let value = self.value(text)?;
            if list.locate(&value).is_err() {
                return Err(WantedError::NotListed {
                    value: value.to_string().into(),
                });
            }
            if !moved.contains(&value) {
                moved.push(value);
            }
        }
        let mut entries: Vec<Entry> = list.entries().to_vec();
        for entry in &mut entries {
            entry.values.retain(|value| !moved.contains(value));
        }
        entries.retain(|entry| !entry.values.is_empty());
        match entries.iter_mut().find(|entry| entry.shard == to) {
            Some(entry) => entry.values.extend(moved),
            None => entries.push(Entry {
                values: moved,
                shard: to,
            }),
        }
        let list = List::new(entries, list.default_shard());
        self.with_strategy(Strategy::List(
            list.map_err(|errors| self.map_errors(errors))?,
        ))
    }

    fn other_values(&self, to: &str) -> Result<ShardMap, WantedError> {
        let Strategy::List(list) = self.map.strategy() else {
            return self.wrong_strategy(
                "MOVE OTHER VALUES",
                "its pieces are no lists of values; write MOVE BUCKETS, MOVE RANGE or MOVE REGION",
            );
        };
        if list.default_shard().is_none() {
            return Err(WantedError::NoDefault {
                distribution: self.name.into(),
            });
        }
        let list = List::new(list.entries().to_vec(), Some(self.id(to)?));
        self.with_strategy(Strategy::List(
            list.map_err(|errors| self.map_errors(errors))?,
        ))
    }

    fn region(&self, name: &str, to: &[String]) -> Result<ShardMap, WantedError> {
        let Strategy::Geo(geo) = self.map.strategy() else {
            return self.wrong_strategy(
                "MOVE REGION",
                "it has no regions; write MOVE BUCKETS, MOVE RANGE or MOVE VALUES",
            );
        };
        let shards = self.ids(to)?;
        let mut regions: Vec<Region> = geo.regions().to_vec();
        match regions.iter_mut().find(|region| *region.name == *name) {
            Some(region) => region.shards = shards,
            None => {
                let known: Vec<_> = regions.iter().map(|region| &*region.name).collect();
                return Err(WantedError::Region {
                    name: name.into(),
                    distribution: self.name.into(),
                    known: known.join(", ").into(),
                });
            }
        }
        let geo = geo_of(geo, regions).map_err(|errors| self.map_errors(errors))?;
        self.with_strategy(Strategy::Geo(geo))
    }
}

/// The same default region, other regions in the same order.
fn geo_of(geo: &Geo, regions: Vec<Region>) -> Result<Geo, Vec<MapError>> {
    let default = geo.default_region().map(|region| &region.name);
    let default = default.and_then(|name| regions.iter().position(|one| one.name == *name));
    Geo::new(regions, default)
}

fn places(units: &[ShardId], shards: &BTreeSet<ShardId>) -> Vec<usize> {
    (0..units.len())
        .filter(|place| shards.contains(&units[*place]))
        .collect()
}

/// Gives out pieces: a shard keeps its own up to its quota, in order; what is left goes to those who have too few.
fn deal(
    before: &[ShardId],
    units: &[usize],
    mut quotas: Vec<(ShardId, usize)>,
    after: &mut [ShardId],
) {
    let mut left = Vec::new();
    for &place in units {
        let keeps = quotas
            .iter_mut()
            .find(|(shard, quota)| *shard == before[place] && *quota > 0);
        match keeps {
            Some((_, quota)) => *quota -= 1,
            None => left.push(place),
        }
    }
    let receivers = quotas
        .into_iter()
        .flat_map(|(shard, quota)| std::iter::repeat_n(shard, quota));
    for (place, shard) in left.into_iter().zip(receivers) {
        after[place] = shard;
    }
}

/// The first part of the span that nobody has. The spans are ascending.
fn gap(spans: &[(Span, ShardId)], wanted: &Span) -> Option<Span> {
    let mut rest = wanted.clone();
    for (span, _) in spans {
        if span.to.is_some() && rest.from.is_some() && span.to <= rest.from {
            continue;
        }
        let covers = span.from.is_none() || (rest.from.is_some() && span.from <= rest.from);
        if !covers {
            break;
        }
        if span.to.is_none() || (rest.to.is_some() && span.to >= rest.to) {
            return None;
        }
        rest.from = later_start(&rest.from, &span.to);
    }
    // Up to where the next range begins.
    let next = spans
        .iter()
        .filter_map(|(span, _)| span.from.clone())
        .filter(|from| rest.from.as_ref().is_none_or(|begin| from > begin))
        .min();
    rest.to = super::layout::earlier_end(&rest.to, &next);
    Some(rest)
}
