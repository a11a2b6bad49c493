//! The merger against what Postgres says of single values (`testdata/`), and against naive oracles for whole results.

use std::cmp::Ordering;
use std::num::NonZeroU64;

use super::key::{Encoding, Part, Purpose};
use super::numeric::Numeric;
use super::*;
use crate::plan::spread::scatter::{
    Adding, Average, Compared, Comparison, Direction, Fold, Kept, Nulls, Shown, Side, SortKey, Text,
};

fn bytes(hexadecimal: &str) -> Vec<u8> {
    (0..hexadecimal.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hexadecimal[at..at + 2], 16).expect("hexadecimal digits"))
        .collect()
}

fn column(type_oid: u32) -> Column {
    Column {
        name: Box::default(),
        table: 0,
        attribute: 0,
        type_oid,
        type_size: -1,
        modifier: -1,
        format: 0,
    }
}

fn lines(file: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    let lines = file.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(' ').collect())
}

#[test]
fn keys_compare_as_postgres_compares_values() {
    let mut table: Vec<(u32, u32, Vec<u8>)> = Vec::new();
    for line in lines(include_str!("testdata/orders.txt")) {
        let number = |place: usize| line[place].parse().expect("a number");
        table.push((number(0), number(1), bytes(line[2])));
    }
    assert!(table.len() > 200);
    for direction in [Direction::Ascending, Direction::Descending] {
        for (oid, rank, value) in &table {
            let part = Part {
                encoding: Encoding::of(&column(*oid), Text::C, Purpose::Order)
                    .expect("a known type"),
                direction,
                nulls: Nulls::Last,
            };
            let key = |value: &[u8]| {
                let mut key = Vec::new();
                part.append(Some(value), &mut key).expect("well formed");
                // What follows must not matter.
                key.extend([0xff, 0, 0xff]);
                key
            };
            for (_, other_rank, other) in table.iter().filter(|(other, ..)| other == oid) {
                let expected = match direction {
                    Direction::Ascending => rank.cmp(other_rank),
                    Direction::Descending => other_rank.cmp(rank),
                };
                assert_eq!(
                    key(value).cmp(&key(other)),
                    expected,
                    "{oid}: {value:x?} {other:x?}"
                );
            }
        }
    }
}

#[test]
fn nulls_stand_where_they_are_wanted() {
    for direction in [Direction::Ascending, Direction::Descending] {
        for (nulls, expected) in [
            (Nulls::First, Ordering::Less),
            (Nulls::Last, Ordering::Greater),
        ] {
            let part = Part {
                encoding: Encoding::Int4,
                direction,
                nulls,
            };
            for value in [i32::MIN, -1, 0, i32::MAX] {
                let (mut null, mut key) = (Vec::new(), Vec::new());
                part.append(None, &mut null).expect("NULL");
                part.append(Some(&value.to_be_bytes()), &mut key)
                    .expect("four bytes");
                assert_eq!(null.cmp(&key), expected);
            }
        }
    }
}

#[test]
fn numbers_are_added_and_written_as_postgres_does() {
    for line in lines(include_str!("testdata/additions.txt")) {
        let read = |place: usize| Numeric::read(&bytes(line[place])).expect("a numeric");
        let sum = read(0).add(&read(1)).expect("no overflow");
        let (mut binary, mut text) = (Vec::new(), Vec::new());
        sum.append_binary(&mut binary);
        sum.append_text(&mut text);
        assert_eq!(
            String::from_utf8_lossy(&text),
            line[3],
            "{} + {}",
            line[0],
            line[1]
        );
        assert_eq!(binary, bytes(line[2]), "{} + {}", line[0], line[1]);
    }
}

#[test]
fn sums_are_divided_by_counts_as_postgres_does() {
    let mut lines_seen = 0;
    for line in lines(include_str!("testdata/divisions.txt")) {
        let sum = Numeric::read(&bytes(line[0])).expect("a numeric");
        let count = line[1].parse().expect("a count");
        let quotient = sum.divide(NonZeroU64::new(count).expect("it is not 0"));
        let (mut binary, mut text) = (Vec::new(), Vec::new());
        quotient.append_binary(&mut binary);
        quotient.append_text(&mut text);
        let text = String::from_utf8_lossy(&text);
        assert_eq!(text, line[3], "{} / {count}", line[0]);
        assert_eq!(binary, bytes(line[2]), "{} / {count}", line[0]);
        lines_seen += 1;
    }
    assert!(lines_seen > 1000);
}

#[test]
fn what_is_no_value_of_a_type_is_not_compared() {
    let cases: [(Encoding, &[u8]); 6] = [
        (Encoding::Int4, &[0; 3]),
        (Encoding::Int8, &[0; 9]),
        (Encoding::Text, &[b'a', 0]),
        (Encoding::Numeric, &[0, 1, 0, 0, 0, 0, 0, 0]),
        (Encoding::Numeric, &[0, 1, 0, 0, 0, 0, 0, 0, 0x27, 0x10]),
        (Encoding::Numeric, &[0, 0, 0, 0, 0x12, 0x34, 0, 0]),
    ];
    for (encoding, value) in cases {
        let failed = Part::equal(encoding).append(Some(value), &mut Vec::new());
        assert!(
            matches!(failed, Err(MergeError::Malformed(_))),
            "{encoding:?}"
        );
    }
}

#[test]
fn text_is_compared_only_when_bytes_decide() {
    let suits = |oid, text, purpose| Encoding::of(&column(oid), text, purpose).is_ok();
    for oid in [19, 25, 1042, 1043] {
        assert!(suits(oid, Text::C, Purpose::Order));
        assert!(!suits(oid, Text::Deterministic, Purpose::Order));
        assert!(!suits(oid, Text::Unknown, Purpose::Order));
        assert!(suits(oid, Text::Deterministic, Purpose::Equality));
        assert!(!suits(oid, Text::Unknown, Purpose::Equality));
    }
    // json, jsonb, point, an array, a record, a type of the user's
    for oid in [114, 3802, 600, 1007, 2249, 16_500] {
        assert!(!suits(oid, Text::C, Purpose::Equality), "{oid}");
    }
}

/// Numbers that look random and are the same every time (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

type Values = Vec<Option<Vec<u8>>>;

fn body(values: &Values) -> Vec<u8> {
    let mut body = (values.len() as u16).to_be_bytes().to_vec();
    for value in values {
        match value {
            Some(value) => {
                body.extend((value.len() as i32).to_be_bytes());
                body.extend(value);
            }
            None => body.extend((-1_i32).to_be_bytes()),
        }
    }
    body
}

/// The rows of a stream of DataRow messages, which holds nothing else.
fn messages(mut stream: &[u8]) -> Vec<Values> {
    let mut rows = Vec::new();
    while let [b'D', length @ ..] = stream {
        let length = u32::from_be_bytes(length[..4].try_into().expect("four bytes")) as usize;
        let mut body = &stream[5..1 + length];
        let mut values = Vec::new();
        for _ in 0..u16::from_be_bytes([body[0], body[1]]) {
            let length = i32::from_be_bytes(body[2..6].try_into().expect("four bytes"));
            let end = 6 + length.max(0) as usize;
            values.push((length >= 0).then(|| body[6..end].to_vec()));
            body = &body[end - 2..];
        }
        assert_eq!(body.len(), 2, "nothing behind the last value");
        rows.push(values);
        stream = &stream[1 + length..];
    }
    assert!(stream.is_empty());
    rows
}

fn scatter(merge: Merge, hidden: usize) -> Scatter {
    Scatter {
        edits: Vec::new(),
        own: None,
        merge,
        hidden: Hidden::Columns(hidden),
        limit: None,
        offset: None,
        locks: false,
    }
}

/// Gives the shards' rows to a merger, in an order of arrival that the dice choose.
fn run(
    merger: &mut Merger,
    shards: &[Vec<Values>],
    dice: &mut Dice,
) -> Result<Vec<Values>, MergeError> {
    let mut next = vec![0; shards.len()];
    let mut out = Vec::new();
    loop {
        let open: Vec<usize> = (0..shards.len())
            .filter(|shard| {
                next[*shard] <= shards[*shard].len()
                    && (merger.wants(*shard) || merger.is_satisfied())
            })
            .collect();
        if open.is_empty() || merger.is_satisfied() {
            break;
        }
        let shard = open[dice.roll(open.len() as u64) as usize];
        match shards[shard].get(next[shard]) {
            Some(row) => merger.row(shard, &body(row), &mut out)?,
            None => merger.ended(shard, &mut out)?,
        }
        next[shard] += 1;
    }
    let rows = messages(&out);
    assert_eq!(merger.rows(), rows.len() as u64);
    Ok(rows)
}

/// A value with its place in the order of its type.
fn value(oid: u32, dice: &mut Dice) -> (i64, Vec<u8>) {
    let number = dice.roll(9) as i64 - 4;
    let bytes = match oid {
        20 => (number * 1_000_000_007).to_be_bytes().to_vec(),
        23 => (number as i32).to_be_bytes().to_vec(),
        701 => (number as f64 / 2.0).to_be_bytes().to_vec(),
        25 => vec![b'a'; (number + 4) as usize],
        1700 => {
            let mut bytes = Vec::new();
            Numeric::of_integer(number * 12_345_678).append_binary(&mut bytes);
            bytes
        }
        _ => unreachable!("of the list below"),
    };
    (number, bytes)
}

const TYPES: [u32; 5] = [20, 23, 701, 25, 1700];

#[test]
fn sorted_streams_merge_to_the_sorted_whole() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for round in 0..3000_u64 {
        let keys = 1 + dice.roll(3) as usize;
        let types: Vec<u32> = (0..keys).map(|_| TYPES[dice.roll(5) as usize]).collect();
        let order: Vec<SortKey> = (0..keys)
            .map(|column| SortKey {
                column,
                direction: if dice.roll(2) == 0 {
                    Direction::Ascending
                } else {
                    Direction::Descending
                },
                nulls: if dice.roll(2) == 0 {
                    Nulls::First
                } else {
                    Nulls::Last
                },
                text: Text::C,
            })
            .collect();
        let rank = |key: &[Option<i64>]| -> Vec<i64> {
            let ranks = key
                .iter()
                .zip(&order)
                .map(|(value, by)| match (value, by.direction) {
                    (None, _) => {
                        if by.nulls == Nulls::First {
                            -100
                        } else {
                            100
                        }
                    }
                    (Some(value), Direction::Ascending) => *value,
                    (Some(value), Direction::Descending) => -value,
                });
            ranks.collect()
        };
        let count = 1 + dice.roll(5) as usize;
        let mut all = Vec::new();
        let mut shards = Vec::new();
        for shard in 0..count {
            let mut rows = Vec::new();
            for number in 0..dice.roll(20) {
                let mut values: Values = vec![Some(format!("{shard}.{number}").into_bytes()), None];
                let mut key = Vec::new();
                for oid in &types {
                    let known = (dice.roll(5) > 0).then(|| value(*oid, &mut dice));
                    key.push(known.as_ref().map(|(number, _)| *number));
                    values.push(known.map(|(_, bytes)| bytes));
                }
                rows.push((rank(&key), values));
            }
            rows.sort_by(|(one, _), (other, _)| one.cmp(other));
            all.extend(
                rows.iter()
                    .map(|(rank, values)| (rank.clone(), values[..2].to_vec())),
            );
            shards.push(
                rows.into_iter()
                    .map(|(_, values)| values)
                    .collect::<Vec<_>>(),
            );
        }
        // Stable: equal rows stay in the order of the shards.
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        let counts = Counts {
            limit: (dice.roll(2) == 0).then(|| dice.roll(30)),
            offset: if dice.roll(2) == 0 { dice.roll(15) } else { 0 },
        };
        let expected: Vec<Values> = all
            .into_iter()
            .map(|(_, values)| values)
            .skip(counts.offset as usize)
            .take(counts.limit.map_or(usize::MAX, |limit| limit as usize))
            .collect();
        let columns: Vec<Column> = [25, 20]
            .iter()
            .chain(&types)
            .map(|oid| column(*oid))
            .collect();
        let scatter = scatter(Merge::Sort(order), keys);
        let mut merger = Merger::new(&scatter, &columns, &[0], counts, count).expect("known types");
        assert_eq!(merger.visible(), 2);
        assert_eq!(merger.formats(), [vec![0, 0], vec![1; keys]].concat());
        let found = run(&mut merger, &shards, &mut dice).expect("sound rows");
        // Which of several equal rows a limit cuts off is decided by the order of the shards.
        assert_eq!(found, expected, "round {round}");
    }
}

#[test]
fn concatenated_rows_are_all_rows_up_to_the_limit() {
    let mut dice = Dice(77);
    for hidden in [0, 1] {
        for _ in 0..300 {
            let count = 1 + dice.roll(4) as usize;
            let row = |text: String| -> Values {
                let mut values = vec![Some(text.into_bytes()), None];
                values.resize(2 + hidden, Some(vec![0; 8]));
                values
            };
            let shards: Vec<Vec<Values>> = (0..count)
                .map(|shard| {
                    (0..dice.roll(9))
                        .map(|number| row(format!("{shard} {number}")))
                        .collect()
                })
                .collect();
            let total: usize = shards.iter().map(Vec::len).sum();
            let counts = Counts {
                limit: (dice.roll(2) == 0).then(|| dice.roll(12)),
                offset: dice.roll(4),
            };
            let columns: Vec<Column> = (0..2 + hidden).map(|_| column(25)).collect();
            let mut merger = Merger::new(
                &scatter(Merge::Concat, hidden),
                &columns,
                &[],
                counts,
                count,
            )
            .expect("any type");
            let mut found = run(&mut merger, &shards, &mut dice).expect("sound rows");
            let left = total.saturating_sub(counts.offset as usize);
            assert_eq!(
                found.len(),
                counts.limit.map_or(left, |limit| left.min(limit as usize))
            );
            let mut expected: Vec<Values> = shards
                .concat()
                .into_iter()
                .map(|row| row[..2].to_vec())
                .collect();
            expected.sort();
            found.sort();
            found.dedup();
            assert!(found.iter().all(|row| expected.binary_search(row).is_ok()));
        }
    }
}

/// What the oracle knows of a group: count, sum, least and greatest with the text that was shown for them.
#[derive(Clone, Debug, Default, PartialEq)]
struct Known {
    count: i64,
    sum: Option<i64>,
    least: Option<i64>,
    greatest: Option<i64>,
    all: Option<bool>,
    any: Option<bool>,
}

#[test]
fn folded_parts_are_the_groups_of_the_whole() {
    let mut dice = Dice(4711);
    let groups = Fold::Groups {
        shown: vec![
            Shown::First,
            Shown::Add(Adding::Sum),
            Shown::Add(Adding::Sum),
            Shown::Won(1),
            Shown::Won(2),
            Shown::Add(Adding::And),
            Shown::Add(Adding::Or),
        ],
        kept: vec![
            Kept::Group(Text::Deterministic),
            Kept::Extreme(Side::Least, Text::Unknown),
            Kept::Extreme(Side::Greatest, Text::Unknown),
            Kept::Add(Adding::Sum),
            Kept::First,
        ],
        // count(*) > 2
        having: vec![Compared {
            left: 3,
            comparison: Comparison::Greater,
            right: 4,
        }],
        order: vec![
            SortKey {
                column: 2,
                direction: Direction::Descending,
                nulls: Nulls::Last,
                text: Text::Unknown,
            },
            SortKey {
                column: 3,
                direction: Direction::Ascending,
                nulls: Nulls::Last,
                text: Text::Unknown,
            },
        ],
    };
    let columns: Vec<Column> = [25, 20, 1700, 23, 23, 16, 16, 25, 23, 23, 20, 23]
        .map(column)
        .to_vec();
    for format in [0_u16, 1] {
        for _ in 0..500 {
            let count = 1 + dice.roll(4) as usize;
            let mut whole: Vec<(Option<Vec<u8>>, Known)> = Vec::new();
            let mut shards = Vec::new();
            for _ in 0..count {
                let mut rows: Vec<Values> = Vec::new();
                for group in 0..6_u8 {
                    if dice.roll(3) == 0 {
                        continue;
                    }
                    let name = (group > 0).then(|| vec![b'g'; group as usize]);
                    let mut number = || (dice.roll(4) > 0).then(|| dice.roll(9) as i64 - 4);
                    let part = Known {
                        sum: number(),
                        least: number(),
                        greatest: number(),
                        all: number().map(|number| number > 0),
                        any: number().map(|number| number > 0),
                        count: dice.roll(3) as i64,
                    };
                    let text = |number: i64| match format {
                        0 => number.to_string().into_bytes(),
                        _ => (number as i32).to_be_bytes().to_vec(),
                    };
                    let binary = |number: i64| (number as i32).to_be_bytes().to_vec();
                    let numeric = |number: i64| {
                        let mut bytes = Vec::new();
                        Numeric::of_integer(number).append_binary(&mut bytes);
                        bytes
                    };
                    rows.push(vec![
                        name.clone(),
                        Some(part.count.to_be_bytes().to_vec()),
                        part.sum.map(numeric),
                        part.least.map(text),
                        part.greatest.map(text),
                        part.all.map(|all| vec![u8::from(all)]),
                        part.any.map(|any| vec![u8::from(any)]),
                        name.clone(),
                        part.least.map(binary),
                        part.greatest.map(binary),
                        Some(part.count.to_be_bytes().to_vec()),
                        Some(2_i32.to_be_bytes().to_vec()),
                    ]);
                    let place = whole
                        .iter()
                        .position(|(known, _)| *known == name)
                        .unwrap_or_else(|| {
                            whole.push((name, Known::default()));
                            whole.len() - 1
                        });
                    let known = &mut whole[place].1;
                    let both =
                        |one: Option<i64>, other: Option<i64>, by: fn(i64, i64) -> i64| match (
                            one, other,
                        ) {
                            (Some(one), Some(other)) => Some(by(one, other)),
                            (one, other) => one.or(other),
                        };
                    let either = |one: Option<bool>,
                                  other: Option<bool>,
                                  by: fn(bool, bool) -> bool| {
                        match (one, other) {
                            (Some(one), Some(other)) => Some(by(one, other)),
                            (one, other) => one.or(other),
                        }
                    };
                    *known = Known {
                        count: known.count + part.count,
                        sum: both(known.sum, part.sum, |one, other| one + other),
                        least: both(known.least, part.least, i64::min),
                        greatest: both(known.greatest, part.greatest, i64::max),
                        all: either(known.all, part.all, |one, other| one && other),
                        any: either(known.any, part.any, |one, other| one || other),
                    };
                }
                shards.push(rows);
            }
            let counts = Counts {
                limit: None,
                offset: 0,
            };
            let mut merger = Merger::new(
                &scatter(Merge::Fold(groups.clone()), 5),
                &columns,
                &[format],
                counts,
                count,
            )
            .expect("known types");
            assert_eq!(
                merger.formats(),
                [format, 1, 1, format, format, 1, 1, 1, 1, 1, 1, 1]
            );
            let found = run(&mut merger, &shards, &mut dice).expect("sound rows");
            whole.retain(|(_, known)| known.count > 2);
            whole.sort_by_key(|(_, known)| {
                (
                    known.greatest.is_none(),
                    known.greatest.map(|number| -number),
                    known.count,
                )
            });
            assert_eq!(found.len(), whole.len());
            let show = |number: Option<i64>, size: usize| {
                number.map(|number| match (format, size) {
                    (0, _) => number.to_string().into_bytes(),
                    (_, 4) => (number as i32).to_be_bytes().to_vec(),
                    _ => number.to_be_bytes().to_vec(),
                })
            };
            let truth = |truth: Option<bool>| {
                truth.map(|truth| match (format, truth) {
                    (0, true) => b"t".to_vec(),
                    (0, false) => b"f".to_vec(),
                    (_, truth) => vec![u8::from(truth)],
                })
            };
            for (row, (name, known)) in found.iter().zip(&whole) {
                // Equal in the order: any of them may come first.
                let (name, known) = whole
                    .iter()
                    .find(|(name, known)| *name == row[0] && known.count > 2)
                    .filter(|(_, other)| {
                        (other.greatest, other.count) == (known.greatest, known.count)
                    })
                    .map_or((name, known), |(name, known)| (name, known));
                let sum = known.sum.map(|sum| {
                    let mut bytes = Vec::new();
                    match format {
                        0 => Numeric::of_integer(sum).append_text(&mut bytes),
                        _ => Numeric::of_integer(sum).append_binary(&mut bytes),
                    }
                    bytes
                });
                let expected = [
                    name.clone(),
                    show(Some(known.count), 8),
                    sum,
                    show(known.least, 4),
                    show(known.greatest, 4),
                    truth(known.all),
                    truth(known.any),
                ];
                assert_eq!(row[..], expected);
            }
        }
    }
}

#[test]
fn an_aggregate_without_groups_is_one_row() {
    let fold = Fold::Groups {
        shown: vec![Shown::Add(Adding::Sum), Shown::Add(Adding::Sum)],
        kept: Vec::new(),
        having: Vec::new(),
        order: Vec::new(),
    };
    let columns = [column(20), column(20)];
    let counts = Counts {
        limit: None,
        offset: 0,
    };
    let merger = || {
        Merger::new(
            &scatter(Merge::Fold(fold.clone()), 0),
            &columns,
            &[],
            counts,
            3,
        )
        .expect("known types")
    };
    let part = |count: i64, sum: Option<i64>| -> Vec<Values> {
        vec![vec![
            Some(count.to_be_bytes().to_vec()),
            sum.map(|sum| sum.to_be_bytes().to_vec()),
        ]]
    };
    let mut dice = Dice(1);
    let empty = run(
        &mut merger(),
        &[part(0, None), part(0, None), part(0, None)],
        &mut dice,
    );
    assert_eq!(empty, Ok(vec![vec![Some(b"0".to_vec()), None]]));
    let some = run(
        &mut merger(),
        &[part(2, Some(-7)), part(0, None), part(1, Some(9))],
        &mut dice,
    );
    assert_eq!(
        some,
        Ok(vec![vec![Some(b"3".to_vec()), Some(b"2".to_vec())]])
    );
    let much = run(
        &mut merger(),
        &[part(2, Some(i64::MAX)), part(0, None), part(1, Some(1))],
        &mut dice,
    );
    assert_eq!(much, Err(MergeError::BigintOutOfRange));
}

#[test]
fn an_average_is_that_of_all_parts() {
    let average = |sum| Average {
        sum,
        count: sum + 1,
    };
    let fold = Fold::Groups {
        shown: vec![Shown::First, Shown::Average(average(1))],
        kept: vec![
            Kept::Group(Text::Deterministic),
            Kept::Add(Adding::Whole),
            Kept::Add(Adding::Sum),
            Kept::Add(Adding::Whole),
            Kept::Add(Adding::Sum),
            Kept::Average(average(3)),
            Kept::First,
        ],
        having: vec![Compared {
            left: 5,
            comparison: Comparison::GreaterOrEqual,
            right: 6,
        }],
        order: vec![SortKey {
            column: 5,
            direction: Direction::Descending,
            nulls: Nulls::Last,
            text: Text::Unknown,
        }],
    };
    let columns = [25, 1700, 25, 20, 20, 1700, 20, 1700, 23].map(column);
    let counts = Counts {
        limit: None,
        offset: 0,
    };
    let scatter = scatter(Merge::Fold(fold), 7);
    let numeric = |number: i64| {
        let mut binary = Vec::new();
        Numeric::of_integer(number).append_binary(&mut binary);
        Some(binary)
    };
    let integer = |number: i64| Some(number.to_be_bytes().to_vec());
    let row = |group: &str, sum: Option<i64>, count: i64, other: i64| -> Values {
        vec![
            Some(group.into()),
            // A part's own average is no part of the whole.
            Some("17".into()),
            Some(group.into()),
            sum.and_then(integer),
            integer(count),
            numeric(other),
            integer(1),
            numeric(99),
            Some(2_i32.to_be_bytes().to_vec()),
        ]
    };
    let shards = [
        vec![
            row("a", Some(i64::MAX), 1, 2),
            row("b", None, 0, 8),
            row("c", Some(1), 1, 1),
        ],
        vec![row("a", Some(i64::MAX), 2, 3), row("b", None, 0, 9)],
        vec![row("b", Some(-2), 3, 7), row("c", Some(1), 1, 2)],
    ];
    let mut merger = Merger::new(&scatter, &columns, &[], counts, 3).expect("known types");
    let found = run(&mut merger, &shards, &mut Dice(3)).expect("sound rows");
    let shown: Vec<String> = found
        .iter()
        .map(|row| {
            let text = |place: usize| row[place].as_deref().map(String::from_utf8_lossy);
            format!("{:?} {:?}", text(0), text(1))
        })
        .collect();
    assert_eq!(
        shown,
        [
            "Some(\"b\") Some(\"-0.66666666666666666667\")",
            "Some(\"a\") Some(\"6148914691236517205\")",
        ]
    );
    for oid in [20, 701, 1186] {
        let mut columns = columns.clone();
        columns[1] = column(oid);
        let merger = Merger::new(&scatter, &columns, &[], counts, 3);
        assert!(merger.is_err(), "{oid}");
    }
}

#[test]
fn distinct_rows_are_shown_once_as_first_seen() {
    let distinct = Scatter {
        hidden: Hidden::Again,
        ..scatter(
            Merge::Fold(Fold::Distinct {
                text: Text::Deterministic,
                order: Vec::new(),
            }),
            0,
        )
    };
    let columns = [1700, 25, 1700, 25].map(column);
    let counts = Counts {
        limit: None,
        offset: 0,
    };
    let mut merger = Merger::new(&distinct, &columns, &[], counts, 2).expect("known types");
    assert_eq!((merger.visible(), merger.formats()), (2, vec![0, 0, 1, 1]));
    let row = |number: &str, binary: &str, text: &str| -> Values {
        vec![
            Some(number.into()),
            Some(text.into()),
            Some(bytes(binary)),
            Some(text.into()),
        ]
    };
    let (one, same) = ("00010000000000000001", "00010000000000010001");
    let shards = [
        vec![row("1", one, "a"), row("1", one, "b")],
        vec![row("1.0", same, "a"), row("1.0", same, "c")],
    ];
    let found = run(&mut merger, &shards, &mut Dice(5)).expect("sound rows");
    let texts: std::collections::BTreeSet<_> = found.iter().map(|row| row[1].clone()).collect();
    assert_eq!((found.len(), texts.len()), (3, 3));
}

#[test]
fn too_many_groups_end_in_an_error() {
    let fold = Fold::Groups {
        shown: vec![Shown::First],
        kept: vec![Kept::Group(Text::C)],
        having: Vec::new(),
        order: Vec::new(),
    };
    let counts = Counts {
        limit: None,
        offset: 0,
    };
    let columns = [column(25), column(25)];
    let mut merger =
        Merger::new(&scatter(Merge::Fold(fold), 1), &columns, &[], counts, 1).expect("known types");
    let mut error = None;
    for number in 0..1000 {
        let text = Some(format!("{number:065000}").into_bytes());
        if let Err(failed) = merger.row(0, &body(&vec![text.clone(), text]), &mut Vec::new()) {
            error = Some((number, failed));
            break;
        }
    }
    let (number, error) = error.expect("the limit is reached");
    assert_eq!(
        (error.sqlstate(), &error),
        ("53400", &MergeError::TooManyGroups)
    );
    assert!((300..600).contains(&number), "{number}");
}

#[test]
fn a_malformed_row_is_an_error() {
    let order = vec![SortKey {
        column: 0,
        direction: Direction::Ascending,
        nulls: Nulls::Last,
        text: Text::C,
    }];
    let counts = Counts {
        limit: None,
        offset: 0,
    };
    let columns = [column(25), column(23)];
    let sound = body(&vec![Some(b"text".to_vec()), Some(vec![0, 0, 0, 1])]);
    for end in 0..sound.len() {
        let mut merger = Merger::new(
            &scatter(Merge::Sort(order.clone()), 1),
            &columns,
            &[],
            counts,
            1,
        )
        .expect("known types");
        let failed = merger.row(0, &sound[..end], &mut Vec::new());
        assert!(matches!(failed, Err(MergeError::Malformed(_))), "{end}");
    }
}

/// Not part of the tests' time: `cargo test --release --lib merge:: -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn rows_a_second() {
    let order = vec![
        SortKey {
            column: 0,
            direction: Direction::Ascending,
            nulls: Nulls::Last,
            text: Text::C,
        },
        SortKey {
            column: 1,
            direction: Direction::Descending,
            nulls: Nulls::Last,
            text: Text::C,
        },
    ];
    let columns = [20, 25, 1184, 20, 20].map(column);
    let counts = Counts {
        limit: None,
        offset: 0,
    };
    for shards in [2_usize, 4, 16] {
        let rows: Vec<Vec<u8>> = (0..250_000_i64)
            .map(|number| {
                let text = format!("customer {number:09}").into_bytes();
                body(&vec![
                    Some(number.to_string().into_bytes()),
                    Some(text.clone()),
                    Some(b"2024-01-01 00:00:00+00".to_vec()),
                    Some((number / 4).to_be_bytes().to_vec()),
                    Some((!number).to_be_bytes().to_vec()).filter(|_| number % 4 > 0),
                ])
            })
            .collect();
        let mut merger = Merger::new(
            &scatter(Merge::Sort(order.clone()), 2),
            &columns,
            &[],
            counts,
            shards,
        )
        .expect("known types");
        let mut out = Vec::with_capacity(1 << 20);
        let began = std::time::Instant::now();
        let mut next = vec![0; shards];
        let mut open = shards;
        while open > 0 {
            for (shard, next) in next.iter_mut().enumerate() {
                while merger.wants(shard) {
                    match rows.get(*next) {
                        Some(row) => merger.row(shard, row, &mut out).expect("a sound row"),
                        None => {
                            merger.ended(shard, &mut out).expect("an end");
                            open -= 1;
                        }
                    }
                    *next += 1;
                }
            }
            if out.len() > 1 << 19 {
                out.clear();
            }
        }
        let total = rows.len() * shards;
        println!(
            "{shards} shards: {:.1} million rows/s",
            total as f64 / began.elapsed().as_secs_f64() / 1e6
        );
    }
}
