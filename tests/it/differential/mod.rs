//! Right or refused: the same rows on one plain Postgres and spread over four by Trunkline, the same statements to both, by simple and
//! by extended protocol. What comes back is the same in every field, or a refusal of Trunkline's; and after every write each row is
//! where the catalog says, once.
//!
//! `pair.rs` runs one statement on both and compares. `data.rs` and `random.rs` try where statements go; `stock.rs`, `corpus/` and `wide.rs` what
//! becomes of those that need several shards. `tests/golden/differential/` has the schemas and the statements of the former.

mod data;
mod pair;
mod random;
mod stock;
mod tpch;
mod wide;

use crate::sharded::{Sharded, configuration_of};
use pair::{Case, Pair, Rows, Sending, Stock, Verdict};
use random::Random;

const SCHEMA: &str = include_str!("../../golden/differential/schema.sql");
const TABLES: &str = include_str!("../../golden/differential/tables.toml");
const STATEMENTS: &str = include_str!("../../golden/differential/statements.sql");

/// At least so many runs of the written statements must be answered, so that refusing everything fails.
const ANSWERED_WRITTEN: usize = 900;
/// The same for the statements made at random.
const ANSWERED_RANDOM: usize = 900;
/// Statements made at random.
const RANDOM: usize = 1500;
/// MERGE made at random, and how many of them must be answered at least.
const MERGES: usize = 600;
const ANSWERED_MERGES: usize = 250;
/// Where they begin; `DIFFERENTIAL_SEED` takes another place.
const SEED: u64 = 20_261_122;

/// Of queries that need rows of several shards.
const SPREAD_SCHEMA: &str = include_str!("../../golden/differential/spread.sql");
const SPREAD_TABLES: &str = include_str!("../../golden/differential/spread.toml");
/// Of the runs of the corpus on four shards.
const ANSWERED_CORPUS: usize = 2000;
/// How many of them are made at random, and how many at night, when `TRUNKLINE_NIGHTLY` is set.
const WIDE: usize = 1000;
const WIDE_AT_NIGHT: usize = 20_000;

/// Counts of runs, and what was wrong.
#[derive(Default)]
struct Tally {
    answered: usize,
    refused: std::collections::BTreeMap<String, usize>,
    wrong: usize,
}

impl Tally {
    fn add(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Same => self.answered += 1,
            Verdict::Refused(id) => *self.refused.entry(id).or_default() += 1,
            Verdict::Wrong(how) => {
                // At once: the run may be long.
                println!("{how}\n");
                self.wrong += 1;
            }
        }
    }

    fn judge(&self, what: &str, answered_at_least: usize) {
        let refused: usize = self.refused.values().sum();
        println!(
            "{what}: {} identical, {refused} refused {:?}, {} different",
            self.answered, self.refused, self.wrong
        );
        assert_eq!(self.wrong, 0, "{what}: answers differ, as shown above");
        assert!(
            self.answered >= answered_at_least,
            "{what}: only {} were answered: {:?}",
            self.answered,
            self.refused
        );
    }
}

fn stock() -> Stock {
    Stock {
        inserts: data::inserts(),
        reference: data::REFERENCE,
        at_home: &["audit"],
    }
}

#[test]
fn written_statements_are_right_or_refused() {
    let sharded = Sharded::start("differential_written", SCHEMA, TABLES);
    let mut pair = Pair::load(&sharded, &stock());
    let mut tally = Tally::default();
    for case in cases(STATEMENTS) {
        pair.run_every_way(&case, |verdict| tally.add(verdict));
    }
    tally.judge("written", ANSWERED_WRITTEN);
}

#[test]
fn random_statements_are_right_or_refused() {
    let sharded = Sharded::start("differential_random", SCHEMA, TABLES);
    let mut pair = Pair::load(&sharded, &stock());
    let mut tally = Tally::default();
    let mut random = Random::new(seed());
    for number in 0..RANDOM {
        let case = random.case();
        // Every tenth in every way, the others in one of three.
        if number % 10 == 0 {
            pair.run_every_way(&case, |verdict| tally.add(verdict));
        } else {
            tally.add(pair.run_one_way(&case, number));
        }
    }
    tally.judge(&format!("random, seed {}", seed()), ANSWERED_RANDOM);
}

#[test]
fn random_merges_are_right_or_refused() {
    let sharded = Sharded::start("differential_merges", SCHEMA, TABLES);
    let mut pair = Pair::load(&sharded, &stock());
    let mut tally = Tally::default();
    let mut random = Random::new(seed());
    for number in 0..MERGES {
        let case = random.merge_case();
        tally.add(pair.run_one_way(&case, number));
    }
    tally.judge(&format!("merges, seed {}", seed()), ANSWERED_MERGES);
}

fn seed() -> u64 {
    std::env::var("DIFFERENTIAL_SEED").map_or(SEED, |seed| seed.parse().expect("a number"))
}

/// A proxy in front of so many shards and the rows of `stock.rs`.
fn spread(database: &str, shards: usize) -> (Sharded, Pair) {
    let names: Vec<String> = (1..=shards).map(|shard| format!("\"s{shard}\"")).collect();
    let tables = SPREAD_TABLES.replace("SHARDS", &names.join(", "));
    let configuration = configuration_of(shards, database, &tables);
    let sharded = Sharded::start_with(database, SPREAD_SCHEMA, &configuration);
    let stock = Stock {
        inserts: stock::inserts(),
        reference: stock::REFERENCE,
        at_home: &[],
    };
    let pair = Pair::load(&sharded, &stock);
    (sharded, pair)
}

/// `DIFFERENTIAL_CORPUS` chooses files by a part of their names.
fn corpus() -> Vec<Case> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/differential/corpus");
    let chosen = std::env::var("DIFFERENTIAL_CORPUS").unwrap_or_default();
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.to_string_lossy().contains(&chosen))
        .collect();
    files.sort();
    files
        .iter()
        .flat_map(|path| cases(&std::fs::read_to_string(path).unwrap()))
        .collect()
}

#[test]
fn the_corpus_is_right_or_refused_on_four_shards() {
    let (_sharded, mut pair) = spread("differential_spread_4", 4);
    let mut tally = Tally::default();
    for case in corpus() {
        pair.run_every_way(&case, |verdict| tally.add(verdict));
    }
    tally.judge("corpus on 4 shards", ANSWERED_CORPUS);
}

#[test]
fn the_corpus_is_right_or_refused_on_two_shards() {
    let (_sharded, mut pair) = spread("differential_spread_2", 2);
    let mut tally = Tally::default();
    for (number, case) in corpus().iter().enumerate() {
        tally.add(pair.run_one_way(case, number));
    }
    tally.judge("corpus on 2 shards", 1);
}

#[test]
fn the_corpus_is_right_on_one_shard() {
    let (_sharded, mut pair) = spread("differential_spread_1", 1);
    let mut tally = Tally::default();
    for (number, case) in corpus().iter().enumerate() {
        tally.add(pair.run_one_way(case, number));
    }
    tally.judge("corpus on 1 shard", 1);
    assert!(tally.refused.is_empty(), "{:?}", tally.refused);
}

#[test]
fn errors_point_into_the_text_of_the_client() {
    let (_sharded, mut pair) = spread("differential_position", 4);
    let mut tally = Tally::default();
    for case in cases("SELECT id FROM items ORDER BY doc->'n'->>'x', id::json") {
        pair.run_every_way(&case, |verdict| tally.add(verdict));
    }
    tally.judge("position", 3);
}

#[test]
fn random_queries_over_several_shards_are_right_or_refused() {
    let (_sharded, mut pair) = spread("differential_wide", 4);
    let mut tally = Tally::default();
    let queries = match std::env::var_os("TRUNKLINE_NIGHTLY") {
        Some(_) => WIDE_AT_NIGHT,
        None => WIDE,
    };
    let mut random = Random::new(seed());
    for number in 0..queries {
        let case = random.wide();
        tally.add(pair.run_one_way(&case, number));
    }
    let what = format!("wide, seed {}", seed());
    tally.judge(&what, queries / 2);
}

/// The statements of a file: paragraphs, with their parameters.
fn cases(file: &str) -> Vec<Case> {
    let paragraphs = file
        .split("\n\n")
        .map(|paragraph| paragraph.trim_matches('\n'));
    let statements =
        paragraphs.filter(|paragraph| !paragraph.lines().all(|line| line.starts_with("--")));
    statements
        .map(|paragraph| {
            let (parameters, text): (Vec<&str>, Vec<&str>) =
                paragraph.lines().partition(|line| line.starts_with("@ "));
            let (marks, text): (Vec<&str>, Vec<&str>) =
                text.into_iter().partition(|line| line.starts_with("# "));
            let (rows, sending) = match marks[..] {
                [] => (Rows::Multiset, Sending::Whole),
                ["# in order"] => (Rows::InOrder, Sending::Whole),
                ["# counted"] => (Rows::Counted, Sending::Whole),
                ["# line by line"] => (Rows::InOrder, Sending::LineByLine),
                _ => panic!("not a mark: {marks:?}"),
            };
            let parameters = parameters.into_iter().map(|line| {
                let (of_type, value) = line[2..].split_once(' ').expect("a type and a value");
                (
                    of_type.replace("double", "float8").to_owned(),
                    value.trim_start_matches("precision ").to_owned(),
                )
            });
            let parameters =
                parameters.map(|(of_type, value)| (of_type, (value != "NULL").then_some(value)));
            Case {
                sql: text.join("\n"),
                parameters: parameters.collect(),
                rows,
                sending,
            }
        })
        .collect()
}
