//! A shard map reduced to what it does: two maps that place every key alike have equal layouts, however they were written.
//!
//! It is what differences are taken of. That a difference is right is proven by [`Layout::apply`]: the old layout with the moves done is
//! the new one.

use std::collections::BTreeMap;

use crate::sharding::buckets::Buckets;
use crate::sharding::geo::{self, Geo};
use crate::sharding::hash::{self, Function, Hash};
use crate::sharding::list::List;
use crate::sharding::range::Ranges;
use crate::sharding::{KeyValue, ShardId, ShardMap, Strategy};

use super::difference::Difference;
use super::keys::{Key, KeySet, Runs, Span, Values};

/// A map as a function from key to shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pub(super) pieces: Pieces,
    /// Keys that live elsewhere than the pieces say.
    pub(super) pins: BTreeMap<Key, ShardId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pieces {
    /// The shard of each bucket.
    Buckets {
        function: Function,
        shards: Vec<ShardId>,
    },
    /// The shard of each remainder; as few as say the same.
    Remainders(Vec<ShardId>),
    /// Ascending; neighbours of one shard are one.
    Ranges(Vec<(Span, ShardId)>),
    /// By the first column; a value that is placed as the others are is not listed.
    Values {
        listed: BTreeMap<KeyValue, Option<Inside>>,
        others: Option<Inside>,
    },
}

/// Where keys with one value of the first column are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Inside {
    One(ShardId),
    /// By the second column: the shard of each of [`geo::REGION_BUCKETS`].
    Hashed(Vec<ShardId>),
}

impl Layout {
    pub fn of(map: &ShardMap) -> Layout {
        let pieces = match map.strategy() {
            Strategy::Hash(hash) => buckets(hash),
            Strategy::Modulo(modulo) => Pieces::Remainders(modulo.shards().to_vec()),
            Strategy::Range(ranges) => spans(ranges),
            Strategy::List(list) => values(list),
            Strategy::Geo(geo) => places(geo),
        };
        let pins = map
            .pins()
            .iter()
            .map(|pin| (pin.key.clone().into(), pin.shard))
            .collect();
        Layout { pieces, pins }.reduced()
    }

    /// Where a key is; `None`: nowhere. The key has the map's types.
    pub fn locate(&self, key: &[KeyValue]) -> Option<ShardId> {
        self.pins
            .get(key)
            .copied()
            .or_else(|| self.pieces.locate(key))
    }

    /// This layout with the moves done: every key of a move is where the move says, and everything else is where it was.
    ///
    /// `None`: the moves are of another strategy.
    pub fn apply(&self, difference: &Difference) -> Option<Layout> {
        let mut after = self.clone();
        let changes = difference
            .moves
            .iter()
            .map(|one| (&one.keys, one.to))
            .chain(difference.additions.iter().map(|one| (&one.keys, one.to)));
        // What is placed by hand stays where it is while the pieces under it move.
        for key in changes.clone().flat_map(|(keys, _)| &keys.except) {
            if let Some(shard) = self.locate(key) {
                after.pins.insert(key.clone(), shard);
            }
        }
        for (keys, to) in changes {
            match &keys.set {
                KeySet::Pinned(pinned) => {
                    after
                        .pins
                        .extend(pinned.iter().map(|key| (key.clone(), to)));
                }
                set => after.pieces.assign(set, to)?,
            }
        }
        Some(after.reduced())
    }

    fn reduced(mut self) -> Layout {
        self.pieces = self.pieces.reduced();
        let pieces = &self.pieces;
        self.pins
            .retain(|key, shard| pieces.locate(key) != Some(*shard));
        self
    }
}

impl Pieces {
    fn locate(&self, key: &[KeyValue]) -> Option<ShardId> {
        let first = key.first()?;
        let at = |shards: &[ShardId], hash: u64| {
            let count = u64::try_from(shards.len()).ok()?;
            shards.get(usize::try_from(hash % count).ok()?).copied()
        };
        match self {
            Pieces::Buckets { function, shards } => match function {
                Function::Postgres => at(shards, hash::postgres(key)),
                Function::Xxh3 => at(shards, hash::xxh3(key)),
            },
            Pieces::Remainders(shards) => {
                let KeyValue::Int(whole) = first else {
                    return None;
                };
                let count = i64::try_from(shards.len()).ok()?;
                at(shards, whole.rem_euclid(count).cast_unsigned())
            }
            Pieces::Ranges(spans) => spans
                .iter()
                .find(|(span, _)| span.contains(first))
                .map(|(_, shard)| *shard),
            Pieces::Values { listed, others } => {
                match listed.get(first).unwrap_or(others).as_ref()? {
                    Inside::One(shard) => Some(*shard),
                    Inside::Hashed(shards) => at(shards, hash::postgres(key.get(1..2)?)),
                }
            }
        }
    }

    fn assign(&mut self, set: &KeySet, to: ShardId) -> Option<()> {
        match (self, set) {
            (
                Pieces::Buckets { function, shards },
                KeySet::Buckets {
                    function: same,
                    of,
                    runs,
                },
            ) if function == same && shards.len() == *of as usize => {
                give(shards, runs.buckets(), to)
            }
            (
                Pieces::Remainders(shards),
                KeySet::Remainders {
                    divisor,
                    remainders,
                },
            ) => {
                *shards = repeated(shards, *divisor)?;
                give(shards, remainders.iter().copied(), to);
            }
            (Pieces::Ranges(spans), KeySet::Ranges(moved)) => {
                for span in moved {
                    overlay(spans, span, to);
                }
            }
            (Pieces::Values { listed, others }, KeySet::Values { values, buckets }) => match values
            {
                Values::Only(values) => {
                    for value in values {
                        let inside = listed.entry(value.clone()).or_insert(others.clone());
                        *inside = Some(assigned(inside.as_ref(), buckets.as_ref(), to));
                    }
                }
                Values::AllBut(named) => {
                    for value in named {
                        listed.entry(value.clone()).or_insert(others.clone());
                    }
                    let rest = listed
                        .iter_mut()
                        .filter(|(value, _)| !named.contains(value))
                        .map(|(_, inside)| inside);
                    for inside in rest.chain([others]) {
                        *inside = Some(assigned(inside.as_ref(), buckets.as_ref(), to));
                    }
                }
            },
            _ => return None,
        }
        Some(())
    }

    fn reduced(self) -> Pieces {
        match self {
            Pieces::Buckets { .. } => self,
            Pieces::Remainders(shards) => {
                let period = (1..=shards.len())
                    .filter(|period| shards.len().is_multiple_of(*period))
                    .find(|&period| (0..shards.len()).all(|at| shards[at] == shards[at % period]))
                    .unwrap_or(shards.len());
                Pieces::Remainders(shards[..period].to_vec())
            }
            Pieces::Ranges(mut spans) => {
                // `None` sorts before every value, as an open beginning should.
                spans.sort_by(|(a, _), (b, _)| a.from.cmp(&b.from));
                let mut merged: Vec<(Span, ShardId)> = Vec::new();
                for (span, shard) in spans {
                    match merged.last_mut() {
                        Some((last, owner))
                            if *owner == shard && last.to.is_some() && last.to == span.from =>
                        {
                            last.to = span.to;
                        }
                        _ => merged.push((span, shard)),
                    }
                }
                Pieces::Ranges(merged)
            }
            Pieces::Values { listed, others } => {
                let others = others.map(Inside::reduced);
                let listed = listed
                    .into_iter()
                    .map(|(value, inside)| (value, inside.map(Inside::reduced)))
                    .filter(|(_, inside)| *inside != others)
                    .collect();
                Pieces::Values { listed, others }
            }
        }
    }
}

impl Inside {
    fn reduced(self) -> Inside {
        match self {
            Inside::Hashed(shards) if shards.iter().all(|shard| *shard == shards[0]) => {
                Inside::One(shards[0])
            }
            other => other,
        }
    }

    /// The shard of each bucket.
    pub(super) fn hashed(&self) -> Vec<ShardId> {
        match self {
            Inside::One(shard) => vec![*shard; geo::REGION_BUCKETS as usize],
            Inside::Hashed(shards) => shards.clone(),
        }
    }
}

fn give(shards: &mut [ShardId], places: impl Iterator<Item = u32>, to: ShardId) {
    for place in places {
        if let Some(shard) = shards.get_mut(place as usize) {
            *shard = to;
        }
    }
}

/// The same remainders, said by a multiple of the divisor.
pub(super) fn repeated(shards: &[ShardId], divisor: u32) -> Option<Vec<ShardId>> {
    let divisor = divisor as usize;
    divisor
        .is_multiple_of(shards.len())
        .then(|| shards.iter().copied().cycle().take(divisor).collect())
}

fn assigned(before: Option<&Inside>, buckets: Option<&Runs>, to: ShardId) -> Inside {
    match buckets {
        None => Inside::One(to),
        Some(runs) => {
            // A value that had no place gets all of its buckets, one set after the other.
            let mut shards =
                before.map_or_else(|| vec![to; geo::REGION_BUCKETS as usize], Inside::hashed);
            give(&mut shards, runs.buckets(), to);
            Inside::Hashed(shards)
        }
    }
}

/// Cuts the span out of what is there and gives it to a shard.
pub(super) fn overlay(spans: &mut Vec<(Span, ShardId)>, moved: &Span, to: ShardId) {
    let mut cut = Vec::with_capacity(spans.len() + 2);
    for (span, shard) in spans.drain(..) {
        let before = Span {
            from: span.from.clone(),
            to: earlier_end(&span.to, &moved.from),
        };
        let behind = Span {
            from: later_start(&span.from, &moved.to),
            to: span.to.clone(),
        };
        if moved.from.is_some() && !before.is_empty() {
            cut.push((before, shard));
        }
        if moved.to.is_some() && !behind.is_empty() {
            cut.push((behind, shard));
        }
    }
    cut.push((moved.clone(), to));
    *spans = cut;
}

impl Span {
    pub(super) fn is_empty(&self) -> bool {
        matches!((&self.from, &self.to), (Some(from), Some(to)) if from >= to)
    }
}

/// The end that comes first; `None` is open.
pub(super) fn earlier_end(a: &Option<KeyValue>, b: &Option<KeyValue>) -> Option<KeyValue> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b).clone()),
        (one, other) => one.as_ref().or(other.as_ref()).cloned(),
    }
}

/// The beginning that comes last; `None` is open.
pub(super) fn later_start(a: &Option<KeyValue>, b: &Option<KeyValue>) -> Option<KeyValue> {
    a.max(b).clone()
}

fn buckets(hash: &Hash) -> Pieces {
    Pieces::Buckets {
        function: hash.function(),
        shards: hash.buckets().shards().to_vec(),
    }
}

fn spans(ranges: &Ranges) -> Pieces {
    let span = |range: &crate::sharding::range::Range| {
        let span = Span {
            from: range.from.clone(),
            to: range.to.clone(),
        };
        (span, range.shard)
    };
    Pieces::Ranges(ranges.sorted().iter().map(span).collect())
}

fn values(list: &List) -> Pieces {
    let listed = list.entries().iter().flat_map(|entry| {
        let inside = Some(Inside::One(entry.shard));
        entry
            .values
            .iter()
            .map(move |value| (value.clone(), inside.clone()))
    });
    Pieces::Values {
        listed: listed.collect(),
        others: list.default_shard().map(Inside::One),
    }
}

fn places(geo: &Geo) -> Pieces {
    let listed = geo.regions().iter().flat_map(|region| {
        let inside = Some(inside(region));
        region
            .values
            .iter()
            .map(move |value| (KeyValue::Text(value.clone()), inside.clone()))
    });
    Pieces::Values {
        listed: listed.collect(),
        others: geo.default_region().map(inside),
    }
}

fn inside(region: &geo::Region) -> Inside {
    match region.shards[..] {
        [one] => Inside::One(one),
        _ => Inside::Hashed(
            Buckets::even(geo::REGION_BUCKETS, &region.shards)
                .expect("checked when the map was made")
                .shards()
                .to_vec(),
        ),
    }
}
