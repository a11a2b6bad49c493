//! `tests/golden/resharding/language.txt`: a statement a line, then what it is read as, or the error with its place; and
//! `plans.txt`: what a statement makes of the distributions below, or why not. Run with UPDATE_GOLDEN=1 to write what is found.

use std::path::Path;

use super::super::job::Plan;
use super::super::show::show;
use super::super::wanted::{Known, WantedError, by_changes, by_configuration};
use super::*;
use crate::sharding::buckets::Buckets;
use crate::sharding::geo::{Geo, Region};
use crate::sharding::hash::{Function, Hash};
use crate::sharding::list::{Entry, List};
use crate::sharding::modulo::Modulo;
use crate::sharding::pin::Pin;
use crate::sharding::range::{Range, Ranges};
use crate::sharding::{KeyType, KeyValue, ShardId, ShardMap, Strategy};

#[test]
fn golden_statements() {
    golden("language.txt", |text| match parse(text) {
        Ok(statement) => format!("{statement:?}\n"),
        Err(error) => format!("{}\n", error.pointed(text)),
    });
}

#[test]
fn golden_plans() {
    let shards: Vec<Box<str>> = (0..6).map(|place| format!("s{place}").into()).collect();
    let maps = distributions();
    let known: Vec<_> = maps.iter().map(|(name, map)| Known { name, map }).collect();
    golden("plans.txt", |text| {
        let only_hash = text.contains("/* tenants alone */");
        let text = text.replace("/* tenants alone */", "");
        let known = if only_hash { &known[..1] } else { &known[..] };
        let Ok(Statement::Plan {
            wanted: Wanted::Changes(changes),
            ..
        }) = parse(&text)
        else {
            panic!("{text}: {:?}", parse(&text));
        };
        match by_changes(&changes, known, &shards) {
            // An empty line ends a paragraph of the file.
            Ok(planned) => show(&planned, &shards).replace("\n\n", "\n"),
            Err(error) => format!("refused: {error}\n"),
        }
    });
}

/// Statements and answers in turn; a statement is a paragraph's first line.
fn golden(file: &str, answer: impl Fn(&str) -> String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/resharding")
        .join(file);
    let text = std::fs::read_to_string(&path).expect("a golden file");
    let mut found = String::new();
    for paragraph in text.split("\n\n").map(|one| one.trim_matches('\n')) {
        let question = paragraph.split('\n').next().unwrap_or_default();
        if question.is_empty() {
            continue;
        }
        match question.starts_with('#') {
            true => found.push_str(&format!("{paragraph}\n\n")),
            false => found.push_str(&format!("{question}\n{}\n", answer(question))),
        }
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &found).expect("it can be written");
    }
    assert!(
        found == std::fs::read_to_string(&path).unwrap_or_default(),
        "run with UPDATE_GOLDEN=1 and read the difference:\n{found}"
    );
}

/// tenants: hash on s0 and s1, a key pinned on s1; counters: modulo; orders: ranges with a gap; customers: list; people: geo.
fn distributions() -> Vec<(&'static str, ShardMap)> {
    let int = KeyValue::Int;
    let text = |value: &str| KeyValue::Text(value.into());
    let ids = |shards: &[u16]| -> Vec<ShardId> { shards.iter().map(|one| ShardId(*one)).collect() };
    let range = |from, to, shard| Range {
        from,
        to,
        shard: ShardId(shard),
    };
    let entry = |values: &[&str], shard| Entry {
        values: values.iter().map(|value| text(value)).collect(),
        shard: ShardId(shard),
    };
    let region = |name: &str, values: &[&str], shards: &[u16]| Region {
        name: name.into(),
        values: values.iter().map(|value| (*value).into()).collect(),
        shards: ids(shards),
    };
    let hash = Hash::new(
        Function::Postgres,
        Buckets::even(4096, &ids(&[0, 1])).unwrap(),
    );
    let pin = Pin {
        key: vec![int(7)],
        shard: ShardId(1),
    };
    let ranges = Ranges::new(vec![
        range(None, Some(int(100)), 0),
        range(Some(int(100)), Some(int(200)), 1),
        range(Some(int(300)), None, 2),
    ]);
    let list = List::new(
        vec![entry(&["acme", "bolt"], 0), entry(&["core"], 1)],
        Some(ShardId(2)),
    );
    let geo = Geo::new(
        vec![
            region("eu", &["DE", "FR"], &[0, 1]),
            region("us", &["US"], &[2]),
            region("rest", &[], &[3]),
        ],
        Some(2),
    );
    let make =
        |types: &[KeyType], strategy, pins| ShardMap::new(types.to_vec(), strategy, pins).unwrap();
    use KeyType::{BigInt, Text};
    vec![
        ("tenants", make(&[BigInt], Strategy::Hash(hash), vec![pin])),
        (
            "counters",
            make(
                &[BigInt],
                Strategy::Modulo(Modulo::new(&ids(&[0, 1, 2])).unwrap()),
                vec![],
            ),
        ),
        (
            "orders",
            make(&[BigInt], Strategy::Range(ranges.unwrap()), vec![]),
        ),
        (
            "customers",
            make(&[Text], Strategy::List(list.unwrap()), vec![]),
        ),
        (
            "people",
            make(&[Text, BigInt], Strategy::Geo(geo.unwrap()), vec![]),
        ),
    ]
}

#[test]
fn words_of_a_command_line_are_one_text() {
    let text = from_words(["plan", "split", "as", "a -> a 50%, b 50%", "for", "t"]);
    assert_eq!(text, "plan split as 'a -> a 50%, b 50%' for t");
    assert!(parse(&text).is_ok());
    let text = from_words(["cutover", "split", "max", "pause", "200ms"]);
    assert!(parse(&text).is_ok());
}

#[test]
fn the_configuration_may_be_what_is_wanted() {
    let maps = distributions();
    let known: Vec<_> = maps.iter().map(|(name, map)| Known { name, map }).collect();
    let ranges = Ranges::new(vec![
        Range {
            from: None,
            to: Some(KeyValue::Int(250)),
            shard: ShardId(0),
        },
        Range {
            from: Some(KeyValue::Int(250)),
            to: None,
            shard: ShardId(2),
        },
    ]);
    let map = ShardMap::new(
        vec![KeyType::BigInt],
        Strategy::Range(ranges.unwrap()),
        vec![],
    )
    .unwrap();
    let wanted = [Known {
        name: "orders",
        map: &map,
    }];
    let shards: Vec<Box<str>> = (0..6).map(|place| format!("s{place}").into()).collect();
    let planned = by_configuration(&wanted, None, &known).unwrap();
    assert_eq!(
        show(&planned, &shards),
        "distribution orders: range
  - s0  before 100
  - s1  from 100 to before 200
  - s2  from 300
  + s0  before 250
  + s2  from 250
  move s1 -> s0: from 100 to before 200
  new on s0, nothing to move: from 200 to before 250
  new on s2, nothing to move: from 250 to before 300
"
    );
    // A plan is stored by the shards' names, and read when they may have other numbers.
    let tables = vec!["public.orders".into()];
    let plan = Plan::new("p", 1, "app", &planned, tables, &shards);
    let routes: Vec<_> = plan.routes.iter().map(ToString::to_string).collect();
    assert_eq!(routes, ["s1 -> s0"]);
    let again = plan.planned(&shards).unwrap();
    assert_eq!(again[0].difference, planned[0].difference);
    assert_eq!(show(&again, &shards), show(&planned, &shards));
    let others: Vec<Box<str>> = shards.iter().rev().cloned().collect();
    let moved = plan.planned(&others).unwrap();
    let moves = &moved[0].difference.moves;
    assert_eq!((moves[0].from.0, moves[0].to.0), (4, 5));
    assert!(plan.planned(&shards[..2]).is_err());
    assert_eq!(
        by_configuration(&wanted, Some("tenants"), &known).unwrap_err(),
        WantedError::Nothing
    );
    // A range cannot become a hash map.
    let wanted = [Known {
        name: "orders",
        map: &maps[0].1,
    }];
    let refused = by_configuration(&wanted, None, &known).unwrap_err();
    assert!(
        matches!(refused, WantedError::Unmovable { .. }),
        "{refused}"
    );
}
