use super::buckets::{Assignment, Buckets};
use super::geo::{Geo, Region};
use super::hash::{Function, HASH_PARTITION_SEED, Hash, postgres_value, xxh3};
use super::list::{Entry, List};
use super::modulo::Modulo;
use super::pin::Pin;
use super::range::{Range, Ranges};
use super::{
    KeyType, KeyValue, LocateError, Location, MapError, ShardId, ShardMap, Strategy, StrategyName,
    Via, geo,
};
use proptest::prelude::{Strategy as _, any, prop_assert, prop_assert_eq, prop_assume, proptest};

const A: ShardId = ShardId(0);
const B: ShardId = ShardId(1);
const C: ShardId = ShardId(2);

fn text(value: &str) -> KeyValue {
    KeyValue::Text(value.into())
}

fn hash_map(function: Function, key: &[KeyType], count: u32, shards: &[ShardId]) -> ShardMap {
    let buckets = Buckets::even(count, shards).unwrap();
    ShardMap::new(
        key.to_vec(),
        Strategy::Hash(Hash::new(function, buckets)),
        Vec::new(),
    )
    .unwrap()
}

fn range(from: Option<i64>, to: Option<i64>, shard: ShardId) -> Range {
    Range {
        from: from.map(KeyValue::Int),
        to: to.map(KeyValue::Int),
        shard,
    }
}

/// Read from a server by `SELECT hash...extended(value, seed)`.
#[test]
fn postgres_hashes_are_those_of_a_server() {
    let seeded = |value: KeyValue| postgres_value(&value, HASH_PARTITION_SEED).cast_signed();
    let plain = |value: KeyValue| postgres_value(&value, 0).cast_signed();
    assert_eq!(seeded(KeyValue::Int(42)), 7363975540656877951);
    assert_eq!(plain(KeyValue::Int(-1)), -1888257769727981238);
    assert_eq!(seeded(KeyValue::Int(i64::MIN)), -6050265599104649060);
    assert_eq!(seeded(text("")), -5700645584453517373);
    assert_eq!(plain(text("abcdefgh")), -8882191227074733005);
    assert_eq!(seeded(text("abcdefghi")), -7860738947571725408);
    assert_eq!(seeded(text("abcdefghijkl")), -7876791541613377658);
    assert_eq!(
        seeded(text("Zürich, Bahnhofstrasse 1")),
        1869835196785384179
    );
    assert_eq!(plain(KeyValue::Numeric(0)), -1);
    assert_eq!(seeded(KeyValue::Numeric(-1)), -3231555093127941538);
    assert_eq!(seeded(KeyValue::Numeric(10_000)), -3231555093127941537);
    assert_eq!(
        seeded(KeyValue::Numeric(123456789012345678901234567890)),
        3091938004562491620
    );
    let uuid = KeyType::Uuid
        .parse_text("550e8400-e29b-41d4-a716-446655440000")
        .unwrap();
    assert_eq!(seeded(uuid), -3467891652331307802);
    assert_eq!(
        seeded(KeyType::Date.parse_text("2024-02-29").unwrap()),
        -7425094147693931516
    );
}

/// From the reference implementation: XXH3_64bits of nothing, and of the eight bytes of 42.
#[test]
fn xxh3_takes_the_documented_bytes() {
    assert_eq!(xxh3(&[text("")]), 0x2d06_8005_38d3_94c2);
    assert_eq!(
        xxh3(&[KeyValue::Int(42)]),
        xxhash_rust::xxh3::xxh3_64(&[42, 0, 0, 0, 0, 0, 0, 0])
    );
    assert_eq!(
        xxh3(&[KeyValue::Numeric(-1)]),
        xxhash_rust::xxh3::xxh3_64(&[255; 16])
    );
    assert_ne!(xxh3(&[text("a"), text("b")]), xxh3(&[text("b"), text("a")]));
}

#[test]
fn buckets_are_shared_evenly_in_order() {
    let buckets = Buckets::even(8, &[A, B, C]).unwrap();
    assert_eq!(buckets.runs(), [(0, 1, A), (2, 4, B), (5, 7, C)]);
    let map = hash_map(Function::Postgres, &[KeyType::BigInt], 4096, &[A, B, C]);
    assert_eq!(map.buckets_per_shard(), [(A, 1365), (B, 1365), (C, 1366)]);
    assert_eq!(map.shards(), [A, B, C]);
    assert_eq!(&*map.pieces()[0].what, "buckets 0 to 1364");
}

#[test]
fn mistakes_in_buckets_are_all_reported() {
    assert_eq!(
        Buckets::even(3, &[]),
        Err(vec![
            MapError::BucketCount { buckets: 3 },
            MapError::NoShards
        ])
    );
    assert_eq!(
        Buckets::even(0, &[A]),
        Err(vec![
            MapError::BucketCount { buckets: 0 },
            MapError::MoreShardsThanBuckets {
                shards: 1,
                buckets: 0
            }
        ])
    );
    assert_eq!(
        Buckets::even(4, &[A, B, A]),
        Err(vec![MapError::ShardTwice {
            first: 0,
            second: 2
        }])
    );
    let assigned = [
        Assignment {
            shard: A,
            runs: vec![(0, 3), (9, 8)],
        },
        Assignment {
            shard: B,
            runs: vec![(2, 5), (15, 16)],
        },
        Assignment {
            shard: C,
            runs: vec![(8, 8), (8, 8)],
        },
    ];
    assert_eq!(
        Buckets::assigned(16, &assigned),
        Err(vec![
            MapError::RunReversed {
                entry: 0,
                first: 9,
                last: 8
            },
            MapError::BucketsTwice {
                first_entry: 0,
                second_entry: 1,
                from: 2,
                to: 3
            },
            MapError::BucketOutOfRange {
                entry: 1,
                bucket: 16,
                buckets: 16
            },
            MapError::BucketsTwice {
                first_entry: 2,
                second_entry: 2,
                from: 8,
                to: 8
            },
            MapError::BucketsUnassigned { from: 6, to: 7 },
            MapError::BucketsUnassigned { from: 9, to: 15 },
        ])
    );
    let good = [
        Assignment {
            shard: B,
            runs: vec![(0, 0), (2, 3)],
        },
        Assignment {
            shard: A,
            runs: vec![(1, 1)],
        },
    ];
    assert_eq!(
        Buckets::assigned(4, &good).unwrap().runs(),
        [(0, 0, B), (1, 1, A), (2, 3, B)]
    );
}

#[test]
fn modulo_is_mathematical_and_for_one_integer_only() {
    let map = |key: Vec<KeyType>| {
        ShardMap::new(
            key,
            Strategy::Modulo(Modulo::new(&[A, B, C]).unwrap()),
            Vec::new(),
        )
    };
    let located = |key| {
        map(vec![KeyType::BigInt])
            .unwrap()
            .locate(&[KeyValue::Int(key)])
            .unwrap()
    };
    assert_eq!(
        located(4),
        Location {
            shard: B,
            via: Via::Bucket(1)
        }
    );
    assert_eq!(
        located(-1),
        Location {
            shard: C,
            via: Via::Bucket(2)
        }
    );
    assert_eq!(located(i64::MIN).shard, B);
    assert_eq!(
        map(vec![KeyType::Text, KeyType::Text]).unwrap_err(),
        [
            MapError::KeyColumns {
                strategy: StrategyName::Modulo,
                columns: 2,
                most: 1
            },
            MapError::TypeUnusable {
                strategy: StrategyName::Modulo,
                column: 0,
                key_type: KeyType::Text
            },
        ]
    );
    assert_eq!(Modulo::new(&[]), Err(vec![MapError::NoShards]));
}

#[test]
fn ranges_are_sorted_and_end_before_their_end() {
    let ranges = Ranges::new(vec![
        range(Some(20), None, C),
        range(None, Some(10), A),
        range(Some(10), Some(15), B),
    ])
    .unwrap();
    let map = ShardMap::new(vec![KeyType::BigInt], Strategy::Range(ranges), Vec::new()).unwrap();
    let located = |key| map.locate(&[KeyValue::Int(key)]);
    assert_eq!(
        located(9),
        Ok(Location {
            shard: A,
            via: Via::Range(0)
        })
    );
    assert_eq!(
        located(10),
        Ok(Location {
            shard: B,
            via: Via::Range(1)
        })
    );
    assert_eq!(
        located(15),
        Err(LocateError::OutsideRanges { key: "15".into() })
    );
    assert_eq!(
        located(20),
        Ok(Location {
            shard: C,
            via: Via::Range(2)
        })
    );
    let pieces: Vec<_> = map.pieces().into_iter().map(|piece| piece.what).collect();
    assert_eq!(
        pieces,
        [
            "before 10".into(),
            "from 10 to before 15".into(),
            "from 20".into()
        ] as [Box<str>; 3]
    );
}

#[test]
fn mistakes_in_ranges_name_their_places_as_given() {
    let ranges = vec![
        range(Some(30), Some(30), A),
        range(Some(5), Some(8), A),
        range(None, Some(20), B),
        range(Some(9), Some(10), A),
        range(Some(20), Some(25), C),
    ];
    assert_eq!(
        Ranges::new(ranges),
        Err(vec![
            MapError::RangeEmpty { range: 0 },
            MapError::RangesOverlap {
                first: 1,
                second: 2
            },
            MapError::RangesOverlap {
                first: 2,
                second: 3
            },
        ])
    );
    assert_eq!(
        Ranges::new(vec![range(None, None, A), range(Some(1), None, B)]),
        Err(vec![MapError::RangesOverlap {
            first: 0,
            second: 1
        }])
    );
    assert_eq!(Ranges::new(Vec::new()), Err(vec![MapError::NoRanges]));
    let mixed = Ranges::new(vec![
        range(Some(1), None, A),
        Range {
            from: None,
            to: Some(KeyValue::Int(0)),
            shard: B,
        },
    ])
    .unwrap();
    assert_eq!(
        ShardMap::new(vec![KeyType::Date], Strategy::Range(mixed), Vec::new()).unwrap_err(),
        [
            MapError::ValueOfOtherType {
                entry: 1,
                key_type: KeyType::Date
            },
            MapError::ValueOfOtherType {
                entry: 0,
                key_type: KeyType::Date
            }
        ]
    );
    let numeric = Ranges::new(vec![range(None, None, A)]).unwrap();
    assert_eq!(
        ShardMap::new(vec![KeyType::Numeric], Strategy::Range(numeric), Vec::new()).unwrap_err(),
        [MapError::TypeUnusable {
            strategy: StrategyName::Range,
            column: 0,
            key_type: KeyType::Numeric
        }]
    );
}

#[test]
fn text_ranges_are_in_byte_order() {
    let ranges = Ranges::new(vec![
        Range {
            from: None,
            to: Some(text("a")),
            shard: A,
        },
        Range {
            from: Some(text("a")),
            to: None,
            shard: B,
        },
    ])
    .unwrap();
    let map = ShardMap::new(vec![KeyType::Text], Strategy::Range(ranges), Vec::new()).unwrap();
    assert_eq!(map.locate(&[text("Z")]).unwrap().shard, A);
    assert_eq!(map.locate(&[text("é")]).unwrap().shard, B);
}

#[test]
fn lists_have_each_value_once() {
    let twice = vec![
        Entry {
            values: vec![text("x"), text("y")],
            shard: A,
        },
        Entry {
            values: vec![],
            shard: B,
        },
        Entry {
            values: vec![text("y")],
            shard: B,
        },
    ];
    assert_eq!(
        List::new(twice, None).unwrap_err(),
        [
            MapError::EntryWithoutValues { entry: 1 },
            MapError::ValueTwice {
                first: 0,
                second: 2,
                value: "'y'".into()
            }
        ]
    );
    assert_eq!(
        List::new(Vec::new(), None).unwrap_err(),
        [MapError::NoValues]
    );
    let map = |default| {
        let list = List::new(
            vec![Entry {
                values: vec![text("x")],
                shard: A,
            }],
            default,
        )
        .unwrap();
        ShardMap::new(vec![KeyType::Text], Strategy::List(list), Vec::new()).unwrap()
    };
    assert_eq!(
        map(None).locate(&[text("x")]),
        Ok(Location {
            shard: A,
            via: Via::Listed
        })
    );
    assert_eq!(
        map(Some(B)).locate(&[text("z")]),
        Ok(Location {
            shard: B,
            via: Via::Default
        })
    );
    assert_eq!(map(Some(B)).shards(), [A, B]);
    let refused = map(None).locate(&[text("z")]).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the key 'z' is not listed in its distribution, which has no default shard"
    );
}

fn region(name: &str, values: &[&str], shards: &[ShardId]) -> Region {
    Region {
        name: name.into(),
        values: values.iter().map(|value| (*value).into()).collect(),
        shards: shards.to_vec(),
    }
}

#[test]
fn regions_hash_the_second_column_among_their_shards() {
    let geo = |default| {
        Geo::new(
            vec![
                region("europe", &["DE", "FR"], &[A, B]),
                region("asia", &["JP"], &[C]),
            ],
            default,
        )
        .unwrap()
    };
    let key = vec![KeyType::Text, KeyType::BigInt];
    let map = ShardMap::new(key.clone(), Strategy::Geo(geo(None)), Vec::new()).unwrap();
    let hashed = hash_map(
        Function::Postgres,
        &[KeyType::BigInt],
        geo::REGION_BUCKETS,
        &[A, B],
    );
    for id in 0..100 {
        let inside = hashed.locate(&[KeyValue::Int(id)]).unwrap();
        let Via::Bucket(bucket) = inside.via else {
            panic!("a hash map answers with a bucket")
        };
        let via = Via::Region {
            region: "europe".into(),
            bucket: Some(bucket),
        };
        assert_eq!(
            map.locate(&[text("FR"), KeyValue::Int(id)]),
            Ok(Location {
                shard: inside.shard,
                via
            })
        );
    }
    let asia = Location {
        shard: C,
        via: Via::Region {
            region: "asia".into(),
            bucket: None,
        },
    };
    assert_eq!(
        map.locate(&[text("JP"), KeyValue::Int(1)]),
        Ok(asia.clone())
    );
    assert_eq!(
        map.locate(&[text("jp"), KeyValue::Int(1)]),
        Err(LocateError::UnknownRegion { value: "jp".into() })
    );
    let map = ShardMap::new(key, Strategy::Geo(geo(Some(1))), Vec::new()).unwrap();
    assert_eq!(map.locate(&[text("US"), KeyValue::Int(1)]), Ok(asia));
}

#[test]
fn mistakes_in_regions_are_all_reported() {
    let regions = vec![
        region("a", &["1", "2"], &[A]),
        region("a", &["2"], &[]),
        region("c", &[], &[B, B]),
    ];
    assert_eq!(
        Geo::new(regions, Some(3)).unwrap_err(),
        [
            MapError::UnknownDefaultRegion,
            MapError::RegionTwice {
                first: 0,
                second: 1
            },
            MapError::ValueTwice {
                first: 0,
                second: 1,
                value: "2".into()
            },
            MapError::EntryWithoutValues { entry: 2 },
            MapError::InRegion {
                region: 1,
                error: Box::new(MapError::NoShards)
            },
            MapError::InRegion {
                region: 2,
                error: Box::new(MapError::ShardTwice {
                    first: 0,
                    second: 1
                })
            },
        ]
    );
    let several = || Strategy::Geo(Geo::new(vec![region("a", &["x "], &[A, B])], None).unwrap());
    assert_eq!(
        ShardMap::new(vec![KeyType::Char], several(), Vec::new()).unwrap_err(),
        [
            MapError::ValueOfOtherType {
                entry: 0,
                key_type: KeyType::Char
            },
            MapError::RegionNeedsSecondColumn { region: 0 }
        ]
    );
    assert_eq!(
        ShardMap::new(
            vec![KeyType::Integer, KeyType::Text, KeyType::Text],
            several(),
            Vec::new()
        )
        .unwrap_err(),
        [
            MapError::TypeUnusable {
                strategy: StrategyName::Geo,
                column: 0,
                key_type: KeyType::Integer
            },
            MapError::KeyColumns {
                strategy: StrategyName::Geo,
                columns: 3,
                most: 2
            },
        ]
    );
}

#[test]
fn pins_come_before_the_strategy() {
    let strategy = || {
        Strategy::Hash(Hash::new(
            Function::Postgres,
            Buckets::even(16, &[A, B]).unwrap(),
        ))
    };
    let pin = |key: &[i64], shard| Pin {
        key: key.iter().map(|key| KeyValue::Int(*key)).collect(),
        shard,
    };
    let map = ShardMap::new(vec![KeyType::BigInt], strategy(), vec![pin(&[7], C)]).unwrap();
    assert_eq!(
        map.locate(&[KeyValue::Int(7)]),
        Ok(Location {
            shard: C,
            via: Via::Pin
        })
    );
    assert!(matches!(
        map.locate(&[KeyValue::Int(8)]).unwrap().via,
        Via::Bucket(_)
    ));
    assert_eq!(map.shards(), [A, B, C]);
    let text_pin = Pin {
        key: vec![text("a")],
        shard: A,
    };
    assert_eq!(
        ShardMap::new(
            vec![KeyType::BigInt],
            strategy(),
            vec![pin(&[7], C), pin(&[1, 2], A), pin(&[7], A), text_pin]
        )
        .unwrap_err(),
        [
            MapError::PinColumns {
                pin: 1,
                given: 2,
                columns: 1
            },
            MapError::PinTwice {
                first: 0,
                second: 2
            },
            MapError::PinOfOtherType {
                pin: 3,
                key_type: KeyType::BigInt
            },
        ]
    );
}

#[test]
fn a_key_of_another_shape_has_no_place() {
    let map = hash_map(Function::Xxh3, &[KeyType::BigInt], 16, &[A]);
    assert_eq!(map.locate(&[]), Err(LocateError::WrongKey));
    assert_eq!(map.locate(&[text("1")]), Err(LocateError::WrongKey));
    assert_eq!(
        map.locate(&[KeyValue::Int(1), KeyValue::Int(1)]),
        Err(LocateError::WrongKey)
    );
    assert_eq!(
        ShardMap::new(Vec::new(), map.strategy().clone(), Vec::new()).unwrap_err(),
        [MapError::NoKey]
    );
}

/// Cuts of a line of small numbers, each piece to a shard or to nobody.
fn arbitrary_ranges() -> impl proptest::strategy::Strategy<Value = Vec<Range>> {
    let cut = proptest::collection::btree_set(-20_i64..20, 1..8);
    (
        cut,
        proptest::collection::vec(0_u16..4, 10),
        any::<(bool, bool)>(),
    )
        .prop_map(|(cuts, shards, (open_front, open_back))| {
            let cuts: Vec<i64> = cuts.into_iter().collect();
            let mut ranges: Vec<Range> = cuts
                .windows(2)
                .zip(&shards)
                .filter(|(_, shard)| **shard != 0)
                .map(|(pair, shard)| range(Some(pair[0]), Some(pair[1]), ShardId(*shard)))
                .collect();
            if open_front {
                ranges.push(range(None, cuts.first().copied(), ShardId(8)));
            }
            if open_back || ranges.is_empty() {
                ranges.insert(0, range(cuts.last().copied(), None, ShardId(9)));
            }
            ranges
        })
}

proptest! {
    #[test]
    fn range_lookup_agrees_with_trying_each_range(ranges in arbitrary_ranges(), key in -25_i64..25) {
        let key = KeyValue::Int(key);
        let naive = ranges.iter().find(|range| {
            range.from.as_ref().is_none_or(|from| *from <= key) && range.to.as_ref().is_none_or(|to| key < *to)
        });
        let found = Ranges::new(ranges.clone()).unwrap().locate(&key);
        prop_assert_eq!(found.ok().map(|(_, shard)| shard), naive.map(|range| range.shard));
    }

    #[test]
    fn overlap_is_found_exactly_when_some_key_lies_in_two_ranges(bounds in proptest::collection::vec((-9_i64..9, 1_i64..4), 1..6)) {
        let ranges: Vec<Range> = bounds.iter().map(|(from, size)| range(Some(*from), Some(from + size), A)).collect();
        let naive = (-9..13).any(|key| bounds.iter().filter(|(from, size)| (*from..from + size).contains(&key)).count() > 1);
        prop_assert_eq!(Ranges::new(ranges).is_err(), naive);
    }

    #[test]
    fn list_lookup_agrees_with_trying_each_value(values in proptest::collection::btree_set(0_i64..40, 0..20), key in 0_i64..40, default in any::<bool>()) {
        let entries: Vec<Entry> = values.iter().map(|value| Entry { values: vec![KeyValue::Int(*value)], shard: ShardId((*value % 3) as u16) }).collect();
        prop_assume!(default || !entries.is_empty());
        let list = List::new(entries, default.then_some(ShardId(9))).unwrap();
        let naive = if values.contains(&key) { Some(ShardId((key % 3) as u16)) } else { default.then_some(ShardId(9)) };
        prop_assert_eq!(list.locate(&KeyValue::Int(key)).ok().map(|(_, shard)| shard), naive);
    }

    #[test]
    fn even_buckets_differ_by_one_and_cover_all(power in 0_u32..13, shards in 1_u16..40) {
        let count = 1 << power;
        prop_assume!(u32::from(shards) <= count);
        let shards: Vec<ShardId> = (0..shards).map(ShardId).collect();
        let runs = Buckets::even(count, &shards).unwrap().runs();
        prop_assert_eq!(runs.iter().map(|run| run.2).collect::<Vec<_>>(), shards.clone());
        let sizes: Vec<u32> = runs.iter().map(|(first, last, _)| last - first + 1).collect();
        prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
        prop_assert_eq!(sizes.iter().sum::<u32>(), count);
    }
}
