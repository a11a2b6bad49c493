//! Right or refused: the same rows on one plain Postgres and spread over four by Trunkline, the same statements to both, by simple and
//! by extended protocol. What comes back is the same in every field, or a refusal of Trunkline's; and after every write each row is
//! where the catalog says, once.
//!
//! `pair.rs` runs one statement on both and compares; `random.rs` makes statements; `tests/golden/differential/` has the schema and those
//! written by hand.

mod data;
mod pair;
mod random;
mod tpch;

use std::fmt::Write as _;

use crate::sharded::Sharded;
use pair::{Case, Pair, Rows, Verdict};

const SCHEMA: &str = include_str!("../../golden/differential/schema.sql");
const TABLES: &str = include_str!("../../golden/differential/tables.toml");
const STATEMENTS: &str = include_str!("../../golden/differential/statements.sql");

/// At least so many runs of the written statements must be answered, so that refusing everything fails.
const ANSWERED_WRITTEN: usize = 900;
/// The same for the statements made at random.
const ANSWERED_RANDOM: usize = 900;
/// Statements made at random.
const RANDOM: usize = 1500;
/// Where they begin; `DIFFERENTIAL_SEED` takes another place.
const SEED: u64 = 20_261_122;

/// Counts of runs, and what was wrong.
#[derive(Default)]
struct Tally {
    answered: usize,
    refused: std::collections::BTreeMap<String, usize>,
    wrong: Vec<String>,
}

impl Tally {
    fn add(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Same => self.answered += 1,
            Verdict::Refused(id) => *self.refused.entry(id).or_default() += 1,
            Verdict::Wrong(how) => self.wrong.push(how),
        }
    }

    fn judge(&self, answered_at_least: usize) {
        let refused: usize = self.refused.values().sum();
        println!(
            "{} answered, {refused} refused: {:?}",
            self.answered, self.refused
        );
        let mut shown = String::new();
        for how in &self.wrong {
            let _ = writeln!(shown, "{how}\n");
        }
        assert!(
            self.wrong.is_empty(),
            "{shown}{} wrong answers",
            self.wrong.len()
        );
        assert!(
            self.answered >= answered_at_least,
            "only {} were answered: {:?}",
            self.answered,
            self.refused
        );
    }
}

#[test]
fn written_statements_are_right_or_refused() {
    let sharded = Sharded::start("differential_written", SCHEMA, TABLES);
    let mut pair = Pair::load(&sharded);
    let mut tally = Tally::default();
    for case in cases(STATEMENTS) {
        pair.run_every_way(&case, |verdict| tally.add(verdict));
    }
    tally.judge(ANSWERED_WRITTEN);
}

#[test]
fn random_statements_are_right_or_refused() {
    let sharded = Sharded::start("differential_random", SCHEMA, TABLES);
    let mut pair = Pair::load(&sharded);
    let mut tally = Tally::default();
    let seed =
        std::env::var("DIFFERENTIAL_SEED").map_or(SEED, |seed| seed.parse().expect("a number"));
    let mut random = random::Random::new(seed);
    for number in 0..RANDOM {
        let case = random.case();
        // Every tenth in every way, the others in one of two.
        if number % 10 == 0 {
            pair.run_every_way(&case, |verdict| tally.add(verdict));
        } else {
            tally.add(pair.run_one_way(&case, number));
        }
    }
    println!("seed {seed}");
    tally.judge(ANSWERED_RANDOM);
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
            let rows = match marks[..] {
                [] => Rows::Multiset,
                ["# in order"] => Rows::InOrder,
                ["# counted"] => Rows::Counted,
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
            }
        })
        .collect()
}
