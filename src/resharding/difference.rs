//! From two shard maps of one distribution to the moves between them, or why there is no such way.
//!
//! Every strategy cuts its key space into cells that lie in one piece of both maps; the cells whose shard differs are the moves, put
//! together by the two shards. Keys placed by hand are moves of their own, and no part of the moves around them.

use std::collections::{BTreeMap, BTreeSet};

use crate::sharding::hash::Function;
use crate::sharding::{KeyValue, ShardId, ShardMap};

use super::keys::{Key, KeySet, Keys, Runs, Span, Values};
use super::layout::{Inside, Layout, Pieces, repeated};

/// Most remainders that two divisors may be brought to.
const MOST_REMAINDERS: u32 = 1 << 16;

/// Keys that go from one shard to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    pub from: ShardId,
    pub to: ShardId,
    pub keys: Keys,
}

/// Keys that had no place, so that there can be no rows of them, and get one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addition {
    pub to: ShardId,
    pub keys: Keys,
}

/// What makes one map of another. Without moves the new map can be taken into use as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Ordered by the shards.
    pub moves: Vec<Move>,
    pub additions: Vec<Addition>,
}

impl Difference {
    pub fn is_nothing(&self) -> bool {
        self.moves.is_empty() && self.additions.is_empty()
    }

    /// The move that the key is in. No key is in two.
    pub fn move_of(&self, key: &[KeyValue]) -> Option<&Move> {
        self.moves.iter().find(|one| one.keys.contain(key))
    }
}

/// Why rows cannot be moved from one map to the other, and the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmovable {
    #[error(
        "the key is ({before}) now and would be ({after}): a plan moves rows, it does not change what they are found by; make a new distribution with this key and load the tables into tables of it"
    )]
    Key { before: Box<str>, after: Box<str> },
    #[error(
        "the strategy is {before} now and would be {after}: pieces of one are no pieces of the other; make a new distribution with this strategy and load the tables into tables of it"
    )]
    Strategy {
        before: &'static str,
        after: &'static str,
    },
    #[error(
        "the hash function is {before} now and would be {after}, which would send nearly every key elsewhere; keep function = \"{before}\", or make a new distribution and load the tables into tables of it"
    )]
    Function {
        before: &'static str,
        after: &'static str,
    },
    #[error(
        "there are {before} buckets now and would be {after}: first make the number of buckets what it shall be in a map that moves no key (bucket b of the greater number is part of bucket b % of the smaller one), reload it, then plan"
    )]
    BucketCount { before: u32, after: u32 },
    #[error(
        "the remainders of {before} and {after} shards have more than {MOST_REMAINDERS} pieces in common; go by way of a number of shards that is a multiple of {before}"
    )]
    Divisors { before: usize, after: usize },
    #[error(
        "keys {what} are on a shard now and would be on none; give them a place in the new map (remove their rows first if they are not wanted)"
    )]
    LosesPlace { what: Box<str> },
}

/// The moves from `current` to `wanted`, or all that stands against them.
pub fn difference(current: &ShardMap, wanted: &ShardMap) -> Result<Difference, Vec<Unmovable>> {
    if current.key_types() != wanted.key_types() {
        let types = |map: &ShardMap| {
            let names: Vec<_> = map.key_types().iter().map(|one| one.name()).collect();
            names.join(", ").into()
        };
        return Err(vec![Unmovable::Key {
            before: types(current),
            after: types(wanted),
        }]);
    }
    let (before, after) = (Layout::of(current), Layout::of(wanted));
    let mut sorter = Sorter::default();
    match cells(&before.pieces, &after.pieces, &mut sorter) {
        Ok(()) => {}
        Err(Unmovable::Strategy { .. }) => {
            return Err(vec![Unmovable::Strategy {
                before: family(current),
                after: family(wanted),
            }]);
        }
        Err(other) => return Err(vec![other]),
    }
    sorter.finish(&before, &after)
}

fn family(map: &ShardMap) -> &'static str {
    use crate::sharding::Strategy;
    match map.strategy() {
        Strategy::Hash(_) => "hash",
        Strategy::Modulo(_) => "modulo",
        Strategy::Range(_) => "range",
        Strategy::List(_) => "list",
        Strategy::Geo(_) => "geo",
    }
}

fn function_name(function: Function) -> &'static str {
    match function {
        Function::Postgres => "postgres",
        Function::Xxh3 => "xxh3",
    }
}

/// Where a cell is in both maps.
type Way = (Option<ShardId>, Option<ShardId>);

/// Cells by the two shards.
#[derive(Default)]
struct Sorter {
    sets: Vec<(Way, KeySet)>,
}

impl Sorter {
    fn add(&mut self, way: Way, set: KeySet) {
        if way.0 != way.1 {
            self.sets.push((way, set));
        }
    }

    fn finish(self, before: &Layout, after: &Layout) -> Result<Difference, Vec<Unmovable>> {
        let by_hand: BTreeSet<&Key> = before.pins.keys().chain(after.pins.keys()).collect();
        let mut sets: Vec<(Way, Keys)> = self
            .sets
            .into_iter()
            .map(|(way, set)| {
                let except = by_hand
                    .iter()
                    .filter(|key| set.contains(key))
                    .map(|key| (*key).clone())
                    .collect();
                (way, Keys { set, except })
            })
            .collect();
        let mut pinned: BTreeMap<Way, Vec<Key>> = BTreeMap::new();
        for key in by_hand {
            let way = (before.locate(key), after.locate(key));
            if way.0 != way.1 {
                pinned.entry(way).or_default().push(key.clone());
            }
        }
        sets.extend(pinned.into_iter().map(|(way, keys)| {
            let keys = Keys {
                set: KeySet::Pinned(keys),
                except: Vec::new(),
            };
            (way, keys)
        }));
        sets.sort_by_key(|(way, _)| *way);
        sorted(sets)
    }
}

fn sorted(sets: Vec<(Way, Keys)>) -> Result<Difference, Vec<Unmovable>> {
    let mut difference = Difference::default();
    let mut refused = Vec::new();
    for (way, keys) in sets {
        match way {
            (Some(from), Some(to)) => difference.moves.push(Move { from, to, keys }),
            (None, Some(to)) => difference.additions.push(Addition { to, keys }),
            (Some(_), None) => refused.push(Unmovable::LosesPlace {
                what: keys.to_string().into(),
            }),
            (None, None) => {}
        }
    }
    if refused.is_empty() {
        Ok(difference)
    } else {
        Err(refused)
    }
}

fn cells(before: &Pieces, after: &Pieces, sorter: &mut Sorter) -> Result<(), Unmovable> {
    match (before, after) {
        (
            Pieces::Buckets { function, shards },
            Pieces::Buckets {
                function: other,
                shards: wanted,
            },
        ) => {
            if function != other {
                return Err(Unmovable::Function {
                    before: function_name(*function),
                    after: function_name(*other),
                });
            }
            let of = count(shards);
            if shards.len() != wanted.len() {
                return Err(Unmovable::BucketCount {
                    before: of,
                    after: count(wanted),
                });
            }
            for (way, runs) in ways(shards, wanted) {
                let set = KeySet::Buckets {
                    function: *function,
                    of,
                    runs,
                };
                sorter.add(way, set);
            }
            Ok(())
        }
        (Pieces::Remainders(shards), Pieces::Remainders(wanted)) => {
            remainders(shards, wanted, sorter)
        }
        (Pieces::Ranges(spans), Pieces::Ranges(wanted)) => {
            ranges(spans, wanted, sorter);
            Ok(())
        }
        (
            Pieces::Values { listed, others },
            Pieces::Values {
                listed: wanted,
                others: rest,
            },
        ) => {
            values((listed, others.as_ref()), (wanted, rest.as_ref()), sorter);
            Ok(())
        }
        // Named by the caller, who has the maps.
        _ => Err(Unmovable::Strategy {
            before: "",
            after: "",
        }),
    }
}

fn count(shards: &[ShardId]) -> u32 {
    u32::try_from(shards.len()).expect("at most 2^16 buckets")
}

/// The places whose shard differs, by the two shards.
fn ways(before: &[ShardId], after: &[ShardId]) -> BTreeMap<Way, Runs> {
    let mut places: BTreeMap<Way, Vec<u32>> = BTreeMap::new();
    for ((place, from), to) in (0..).zip(before).zip(after) {
        if from != to {
            places
                .entry((Some(*from), Some(*to)))
                .or_default()
                .push(place);
        }
    }
    places
        .into_iter()
        .map(|(way, places)| (way, Runs::of(places)))
        .collect()
}

fn remainders(before: &[ShardId], after: &[ShardId], sorter: &mut Sorter) -> Result<(), Unmovable> {
    let too_many = Unmovable::Divisors {
        before: before.len(),
        after: after.len(),
    };
    let divisor = u32::try_from(least_common_multiple(before.len(), after.len()))
        .ok()
        .filter(|divisor| *divisor <= MOST_REMAINDERS)
        .ok_or_else(|| too_many.clone())?;
    let (Some(before), Some(after)) = (repeated(before, divisor), repeated(after, divisor)) else {
        return Err(too_many);
    };
    for (way, runs) in ways(&before, &after) {
        let set = KeySet::Remainders {
            divisor,
            remainders: runs.buckets().collect(),
        };
        sorter.add(way, set);
    }
    Ok(())
}

fn least_common_multiple(a: usize, b: usize) -> usize {
    let (mut large, mut small) = (a.max(b), a.min(b));
    while small != 0 {
        (large, small) = (small, large % small);
    }
    a / large * b
}

fn ranges(before: &[(Span, ShardId)], after: &[(Span, ShardId)], sorter: &mut Sorter) {
    let all = || before.iter().chain(after).map(|(span, _)| span);
    let cuts: BTreeSet<&KeyValue> = all()
        .flat_map(|span| [&span.from, &span.to])
        .flatten()
        .collect();
    // Between two neighbouring cuts no bound lies, so a cell is in one piece of each map, or in a gap.
    let starts = std::iter::once(None).chain(cuts.iter().map(|cut| Some((*cut).clone())));
    let ends = cuts
        .iter()
        .map(|cut| Some((*cut).clone()))
        .chain(std::iter::once(None));
    let mut found: BTreeMap<Way, Vec<Span>> = BTreeMap::new();
    for (from, to) in starts.zip(ends) {
        let cell = Span { from, to };
        let spans = found
            .entry((owner(before, &cell), owner(after, &cell)))
            .or_default();
        match spans.last_mut() {
            Some(last) if last.to.is_some() && last.to == cell.from => last.to = cell.to,
            _ => spans.push(cell),
        }
    }
    for (way, spans) in found {
        sorter.add(way, KeySet::Ranges(spans));
    }
}

/// The shard of a cell, which no bound cuts.
fn owner(spans: &[(Span, ShardId)], cell: &Span) -> Option<ShardId> {
    spans
        .iter()
        .find(|(span, _)| span.holds(cell))
        .map(|(_, shard)| *shard)
}

impl Span {
    /// Whether all of the other span lies inside.
    fn holds(&self, other: &Span) -> bool {
        let begins = match (&self.from, &other.from) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(theirs)) => own <= theirs,
        };
        let ends = match (&self.to, &other.to) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(theirs)) => theirs <= own,
        };
        begins && ends
    }
}

/// Values listed one by one, and where all others are.
type Listed<'a> = (&'a BTreeMap<KeyValue, Option<Inside>>, Option<&'a Inside>);

fn values(before: Listed<'_>, after: Listed<'_>, sorter: &mut Sorter) {
    let find = |(listed, others): Listed<'_>, value: &KeyValue| match listed.get(value) {
        Some(inside) => inside.clone(),
        None => others.cloned(),
    };
    let named: BTreeSet<&KeyValue> = before.0.keys().chain(after.0.keys()).collect();
    let rest = (before.1.cloned(), after.1.cloned());
    let mut groups: BTreeMap<(Option<Inside>, Option<Inside>), Vec<KeyValue>> = BTreeMap::new();
    let mut elsewhere = Vec::new();
    for value in named {
        let way = (find(before, value), find(after, value));
        if way != rest {
            elsewhere.push(value.clone());
            groups.entry(way).or_default().push(value.clone());
        }
    }
    for (way, values) in groups {
        inside(way, Values::Only(values), sorter);
    }
    inside(rest, Values::AllBut(elsewhere), sorter);
}

/// Cells of values that are placed alike in each map.
fn inside(way: (Option<Inside>, Option<Inside>), values: Values, sorter: &mut Sorter) {
    let whole = |inside: &Option<Inside>| match inside {
        None => Some(None),
        Some(Inside::One(shard)) => Some(Some(*shard)),
        Some(Inside::Hashed(_)) => None,
    };
    if let (Some(from), Some(to)) = (whole(&way.0), whole(&way.1)) {
        let set = KeySet::Values {
            values,
            buckets: None,
        };
        sorter.add((from, to), set);
        return;
    }
    let (before, after) = (
        way.0.as_ref().map(Inside::hashed),
        way.1.as_ref().map(Inside::hashed),
    );
    let mut found: BTreeMap<Way, Vec<u32>> = BTreeMap::new();
    for (bucket, place) in (0..crate::sharding::geo::REGION_BUCKETS).zip(0_usize..) {
        let at = |shards: &Option<Vec<ShardId>>| shards.as_ref().map(|shards| shards[place]);
        found
            .entry((at(&before), at(&after)))
            .or_default()
            .push(bucket);
    }
    for (way, buckets) in found {
        let set = KeySet::Values {
            values: values.clone(),
            buckets: Some(Runs::of(buckets)),
        };
        sorter.add(way, set);
    }
}

#[cfg(test)]
mod tests;
