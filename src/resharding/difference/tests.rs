use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use proptest::sample::select;

use super::super::record::{StoredError, StoredMap};
use super::*;
use crate::sharding::buckets::{Assignment, Buckets};
use crate::sharding::geo::{Geo, Region};
use crate::sharding::hash::Hash;
use crate::sharding::list::{Entry, List};
use crate::sharding::modulo::Modulo;
use crate::sharding::pin::Pin;
use crate::sharding::range::{Range, Ranges};
use crate::sharding::{KeyType, Strategy as Placing};

type Made<T> = BoxedStrategy<T>;

fn shard() -> Made<ShardId> {
    (0_u16..5).prop_map(ShardId).boxed()
}

/// Few different values, so that pins, bounds and samples meet.
fn value(key_type: KeyType) -> Made<KeyValue> {
    match key_type {
        KeyType::Text => select(vec!["DE", "FR", "CH", "US", "", "é"])
            .prop_map(|text| KeyValue::Text(text.into()))
            .boxed(),
        KeyType::Uuid => (0_u8..6)
            .prop_map(|byte| KeyValue::Uuid([byte; 16]))
            .boxed(),
        _ => prop_oneof![
            (-12_i64..12).prop_map(KeyValue::Int),
            any::<i64>().prop_map(KeyValue::Int)
        ]
        .boxed(),
    }
}

fn key(types: &[KeyType]) -> Made<Vec<KeyValue>> {
    types
        .iter()
        .map(|one| value(*one))
        .collect::<Vec<_>>()
        .boxed()
}

fn pins(types: &[KeyType]) -> Made<Vec<Pin>> {
    btree_map(key(types), shard(), 0..4)
        .prop_map(|pins| {
            pins.into_iter()
                .map(|(key, shard)| Pin { key, shard })
                .collect()
        })
        .boxed()
}

fn assigned(count: u32) -> Made<Buckets> {
    vec(shard(), count as usize)
        .prop_map(move |shards| {
            let runs: Vec<Assignment> = (0..)
                .zip(shards)
                .map(|(bucket, shard)| Assignment {
                    shard,
                    runs: vec![(bucket, bucket)],
                })
                .collect();
            Buckets::assigned(count, &runs).unwrap()
        })
        .boxed()
}

fn hash(function: Function) -> Made<Placing> {
    assigned(16)
        .prop_map(move |buckets| Placing::Hash(Hash::new(function, buckets)))
        .boxed()
}

fn modulo() -> Made<Placing> {
    vec(shard(), 1..7)
        .prop_map(|shards| Placing::Modulo(Modulo::new(&shards).unwrap()))
        .boxed()
}

/// With gaps only when asked for: `[cut, cut)` pieces between sorted cuts, both ends open.
fn range() -> Made<Placing> {
    (btree_set(-12_i64..12, 0..6), vec(shard(), 7))
        .prop_map(|(cuts, shards)| {
            let cuts: Vec<_> = cuts.into_iter().map(KeyValue::Int).collect();
            let ranges = (0..=cuts.len())
                .map(|place| Range {
                    from: place.checked_sub(1).map(|before| cuts[before].clone()),
                    to: cuts.get(place).cloned(),
                    shard: shards[place],
                })
                .collect();
            Placing::Range(Ranges::new(ranges).unwrap())
        })
        .boxed()
}

fn list() -> Made<Placing> {
    (btree_map(-12_i64..12, shard(), 0..8), shard())
        .prop_map(|(listed, default)| {
            let entries = listed
                .into_iter()
                .map(|(value, shard)| Entry {
                    values: vec![KeyValue::Int(value)],
                    shard,
                })
                .collect();
            Placing::List(List::new(entries, Some(default)).unwrap())
        })
        .boxed()
}

fn geo() -> Made<Placing> {
    let region_of = btree_map(select(vec!["DE", "FR", "CH", "US", "é"]), 0_usize..3, 0..5);
    let shards = vec(btree_set(0_u16..5, 1..4), 3);
    (region_of, shards, any::<bool>())
        .prop_map(|(region_of, shards, reversed)| {
            let regions = (0..3)
                .map(|place| {
                    let mut shards: Vec<_> =
                        shards[place].iter().map(|shard| ShardId(*shard)).collect();
                    if reversed {
                        shards.reverse();
                    }
                    Region {
                        name: format!("region {place}").into(),
                        values: region_of
                            .iter()
                            .filter(|(_, region)| **region == place)
                            .map(|(value, _)| (*value).into())
                            .collect(),
                        shards,
                    }
                })
                // The default region alone may be without values.
                .collect::<Vec<_>>();
            let mut regions: Vec<Region> = regions;
            let last = regions.pop().unwrap();
            regions.retain(|region| !region.values.is_empty());
            regions.push(last);
            let default = Some(regions.len() - 1);
            Placing::Geo(Geo::new(regions, default).unwrap())
        })
        .boxed()
}

#[derive(Debug)]
struct Case {
    current: ShardMap,
    wanted: ShardMap,
    samples: Vec<Vec<KeyValue>>,
}

fn case(types: &'static [KeyType], placing: impl Fn() -> Made<Placing>) -> Made<Case> {
    let map = || {
        (placing(), pins(types)).prop_map(|(strategy, pins)| {
            ShardMap::new(types.to_vec(), strategy, pins).expect("sound by construction")
        })
    };
    (map(), map(), vec(key(types), 40))
        .prop_map(|(current, wanted, samples)| Case {
            current,
            wanted,
            samples,
        })
        .boxed()
}

/// Everything that must be true of a difference.
fn judge(case: &Case) -> Result<(), TestCaseError> {
    let (before, after) = (Layout::of(&case.current), Layout::of(&case.wanted));
    let found = difference(&case.current, &case.wanted)
        .map_err(|refused| TestCaseError::fail(format!("{refused:?}")))?;
    prop_assert_eq!(before.apply(&found), Some(after.clone()));
    let pinned = case.current.pins().iter().chain(case.wanted.pins());
    for key in case.samples.iter().chain(pinned.map(|pin| &pin.key)) {
        let (from, to) = (case.current.locate(key), case.wanted.locate(key));
        let (from, to) = (from.map(|at| at.shard).ok(), to.map(|at| at.shard).ok());
        prop_assert_eq!(before.locate(key), from);
        prop_assert_eq!(after.locate(key), to);
        let inside: Vec<_> = found
            .moves
            .iter()
            .filter(|one| one.keys.contain(key))
            .map(|one| (Some(one.from), Some(one.to)))
            .collect();
        let expected = if from.is_some() && from != to {
            vec![(from, to)]
        } else {
            vec![]
        };
        prop_assert_eq!(inside, expected, "{:?}", key);
    }
    for map in [&case.current, &case.wanted] {
        let names: Vec<Box<str>> = (0..5).map(|place| format!("s{place}").into()).collect();
        let stored = serde_json::to_string(&StoredMap::of(map, &names)).expect("JSON");
        let read: StoredMap = serde_json::from_str(&stored).expect("what was written");
        // Shards may have other numbers by then.
        let moved: Vec<Box<str>> = names.iter().rev().cloned().collect();
        let again = StoredMap::of(&read.map(&moved).expect("sound"), &moved);
        prop_assert_eq!(&again, &read);
        let same = read.map(&names).expect("sound");
        prop_assert_eq!(Layout::of(&same), Layout::of(map));
    }
    let back = difference(&case.wanted, &case.current)
        .map_err(|refused| TestCaseError::fail(format!("{refused:?}")))?;
    prop_assert_eq!(after.apply(&back), Some(before));
    Ok(())
}

const BIGINT: &[KeyType] = &[KeyType::BigInt];
const COMPOSITE: &[KeyType] = &[KeyType::BigInt, KeyType::Text, KeyType::Uuid];
const PLACE: &[KeyType] = &[KeyType::Text, KeyType::BigInt];

proptest! {
    #[test]
    fn hash_maps(case in case(BIGINT, || hash(Function::Postgres))) { judge(&case)?; }
    #[test]
    fn hash_maps_of_composite_keys(case in case(COMPOSITE, || hash(Function::Postgres))) { judge(&case)?; }
    #[test]
    fn hash_maps_of_another_function(case in case(COMPOSITE, || hash(Function::Xxh3))) { judge(&case)?; }
    #[test]
    fn remainders_of_any_two_divisors(case in case(BIGINT, modulo)) { judge(&case)?; }
    #[test]
    fn ranges_cut_anywhere(case in case(BIGINT, range)) { judge(&case)?; }
    #[test]
    fn lists_with_a_default(case in case(BIGINT, list)) { judge(&case)?; }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn places(case in case(PLACE, geo)) { judge(&case)?; }
}

fn ranges_of(bounds: &[(Option<i64>, Option<i64>, u16)]) -> ShardMap {
    let ranges = bounds
        .iter()
        .map(|(from, to, shard)| Range {
            from: from.map(KeyValue::Int),
            to: to.map(KeyValue::Int),
            shard: ShardId(*shard),
        })
        .collect();
    ShardMap::new(
        vec![KeyType::BigInt],
        Placing::Range(Ranges::new(ranges).unwrap()),
        vec![],
    )
    .unwrap()
}

fn hashed(function: Function, count: u32) -> ShardMap {
    let buckets = Buckets::even(count, &[ShardId(0), ShardId(1)]).unwrap();
    ShardMap::new(
        vec![KeyType::BigInt],
        Placing::Hash(Hash::new(function, buckets)),
        vec![],
    )
    .unwrap()
}

#[test]
fn a_gap_that_is_filled_moves_nothing() {
    let current = ranges_of(&[(None, Some(10), 0), (Some(20), None, 1)]);
    let wanted = ranges_of(&[(None, Some(15), 0), (Some(15), None, 1)]);
    let found = difference(&current, &wanted).unwrap();
    assert_eq!(found.moves, []);
    let added: Vec<_> = found
        .additions
        .iter()
        .map(|one| (one.to.0, one.keys.to_string()))
        .collect();
    assert_eq!(
        added,
        [
            (0, "from 10 to before 15".to_owned()),
            (1, "from 15 to before 20".to_owned())
        ]
    );
    assert_eq!(
        Layout::of(&current).apply(&found),
        Some(Layout::of(&wanted))
    );
}

#[test]
fn what_would_lose_its_place_is_refused() {
    let current = ranges_of(&[(None, Some(15), 0), (Some(15), None, 1)]);
    let wanted = ranges_of(&[(None, Some(10), 0), (Some(20), None, 1)]);
    let refused = difference(&current, &wanted).unwrap_err();
    let lost = |what: &str| Unmovable::LosesPlace { what: what.into() };
    assert_eq!(
        refused,
        [lost("from 10 to before 15"), lost("from 15 to before 20")]
    );
}

#[test]
fn a_map_written_otherwise_is_no_difference() {
    let current = ranges_of(&[(None, Some(15), 0), (Some(15), None, 0)]);
    let wanted = ranges_of(&[(None, None, 0)]);
    assert!(difference(&current, &wanted).unwrap().is_nothing());
    let modulo = |shards: &[u16]| {
        let shards: Vec<_> = shards.iter().map(|shard| ShardId(*shard)).collect();
        ShardMap::new(
            vec![KeyType::BigInt],
            Placing::Modulo(Modulo::new(&shards).unwrap()),
            vec![],
        )
        .unwrap()
    };
    let (current, wanted) = (modulo(&[0, 1]), modulo(&[0, 1, 0, 1]));
    assert!(difference(&current, &wanted).unwrap().is_nothing());
}

#[test]
fn what_is_no_piece_of_the_other_map_is_refused() {
    let current = hashed(Function::Postgres, 16);
    let refused = |wanted: &ShardMap| difference(&current, wanted).unwrap_err();
    assert_eq!(
        refused(&hashed(Function::Postgres, 32)),
        [Unmovable::BucketCount {
            before: 16,
            after: 32
        }]
    );
    assert_eq!(
        refused(&hashed(Function::Xxh3, 16)),
        [Unmovable::Function {
            before: "postgres",
            after: "xxh3"
        }]
    );
    assert_eq!(
        refused(&ranges_of(&[(None, None, 0)])),
        [Unmovable::Strategy {
            before: "hash",
            after: "range"
        }]
    );
    let text = ShardMap::new(vec![KeyType::Text], current.strategy().clone(), vec![]).unwrap();
    assert_eq!(
        refused(&text),
        [Unmovable::Key {
            before: "bigint".into(),
            after: "text".into()
        }]
    );
}

#[test]
fn every_type_of_value_is_stored_exactly() {
    let types = KeyType::ALL.to_vec();
    let key: Vec<KeyValue> = [
        "-32768",
        "7",
        "9223372036854775807",
        "it's",
        "x",
        "y",
        "550e8400-e29b-41d4-a716-446655440000",
        "infinity",
        "2024-01-05 10:11:12.123456",
        "-infinity",
        "-170141183460469231731687303715884105727",
        "\\x00ff",
    ]
    .iter()
    .zip(&types)
    .map(|(text, key_type)| key_type.parse_text(text).unwrap())
    .collect();
    let pin = Pin {
        key: key.clone(),
        shard: ShardId(1),
    };
    let buckets = Buckets::even(16, &[ShardId(0)]).unwrap();
    let map = ShardMap::new(
        types,
        Placing::Hash(Hash::new(Function::Postgres, buckets)),
        vec![pin],
    )
    .unwrap();
    let names: Vec<Box<str>> = vec!["a".into(), "b".into()];
    let stored = StoredMap::of(&map, &names);
    let text = serde_json::to_string(&stored).unwrap();
    let read: StoredMap = serde_json::from_str(&text).unwrap();
    assert_eq!(read.map(&names).unwrap().pins()[0].key, key);
    assert_eq!(
        read.map(&names[..1]).unwrap_err(),
        StoredError::Shard("b".into())
    );
}
