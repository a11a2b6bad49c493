//! What is read of statements, beside what Postgres's own parser reads of them.
//!
//! `tests/golden/tables/*.jsonl` has statements of Postgres's regression tests (PostgreSQL licence) and of object-relational mappers, each with the
//! tables and possible keys that Postgres's parser finds: `tests/python/postgres_parser.py` writes them. The crate `pg_query` would give the same
//! within the test, but version 6.2 cannot be built without libclang (bindgen 0.66), 137 MB on a machine that has none, and had taken 90 s of CPU time
//! when it stopped for want of it: too much for every fresh checkout. A file costs nothing and is as true.
//!
//! A statement of which facts are known must name exactly these tables, and no key that is none. One that is not understood
//! must at least show every table's name among its words, by which the planner proves that no sharded table is concerned.

use std::collections::BTreeSet;

use serde::Deserialize;
use trunkline::sql::facts::{Conjunct, Facts, Name, Source};
use trunkline::sql::{self, Body, Statement};

/// One line of a golden file.
#[derive(Deserialize)]
struct Golden {
    sql: String,
    /// With their schemas, where these are written.
    tables: BTreeSet<String>,
    /// Names of columns.
    keys: BTreeSet<String>,
}

fn goldens(name: &str) -> Vec<Golden> {
    let path = format!("{}/tests/golden/tables/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect("the golden file");
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("a line of the golden file"))
        .collect()
}

fn shown(name: &Name) -> String {
    match &name.schema {
        Some(schema) => format!("{schema}.{}", name.name),
        None => name.name.to_string(),
    }
}

fn tables(facts: &Facts) -> BTreeSet<String> {
    let relations = facts.blocks.iter().flat_map(|block| &block.relations);
    let read = relations.filter_map(|relation| match &relation.source {
        Source::Table(name) => Some(shown(name)),
        _ => None,
    });
    let inserted = facts.inserts.iter().map(|insert| shown(&insert.table));
    let assigned = facts.assignments.iter().map(|one| shown(&one.table));
    read.chain(inserted).chain(assigned).collect()
}

fn keys(facts: &Facts) -> BTreeSet<String> {
    let conjuncts = facts.blocks.iter().flat_map(|block| &block.conjuncts);
    let columns = conjuncts.flat_map(|conjunct| match conjunct {
        Conjunct::Equal(column, _) | Conjunct::In(column, _) | Conjunct::AnyOf(column, _) => {
            vec![&column.column]
        }
        Conjunct::Same(one, other) => vec![&one.column, &other.column],
        // No WHERE and no ON.
        Conjunct::Using { .. } => vec![],
    });
    columns.map(|column| column.to_string()).collect()
}

/// What is wrong with how a statement is read.
fn wrong(golden: &Golden, statement: &Statement) -> Option<String> {
    match &statement.body {
        Body::Facts(facts) => {
            let (ours, keys) = (tables(facts), keys(facts));
            if ours != golden.tables {
                return Some(format!("tables {ours:?}, not {:?}", golden.tables));
            }
            let made_up: Vec<_> = keys.difference(&golden.keys).collect();
            (!made_up.is_empty()).then(|| format!("no keys: {made_up:?}"))
        }
        Body::Unparsed { words, .. } => {
            let names = golden.tables.iter().map(|table| {
                let (_, name) = table.rsplit_once('.').unwrap_or(("", table));
                name
            });
            let unseen: Vec<_> = names
                .filter(|name| !words.iter().any(|word| **word == **name))
                .collect();
            (!unseen.is_empty()).then(|| format!("not among the words: {unseen:?}"))
        }
        Body::None => Some("nothing is known of it".to_owned()),
    }
}

/// Reads all statements of a file; how many of a hundred gave facts.
fn agree(name: &str) -> usize {
    let goldens = goldens(name);
    let (mut understood, mut refused) = (0, 0);
    let mut found = Vec::new();
    for golden in &goldens {
        match sql::read(&golden.sql).as_deref() {
            // Refused as a whole.
            Err(_) => refused += 1,
            Ok([statement]) => {
                understood += usize::from(matches!(statement.body, Body::Facts(_)));
                if let Some(wrong) = wrong(golden, statement) {
                    found.push(format!("{}\n    {wrong}", golden.sql));
                }
            }
            Ok(several) => found.push(format!(
                "{}\n    is {} statements",
                golden.sql,
                several.len()
            )),
        }
    }
    println!(
        "{name}: {} statements, {understood} understood, {refused} refused as a whole",
        goldens.len()
    );
    assert!(
        found.is_empty(),
        "{} of {}:\n{}",
        found.len(),
        goldens.len(),
        found.join("\n")
    );
    understood * 100 / goldens.len()
}

#[test]
fn postgres_regression_tests_are_read_as_postgres_reads_them() {
    assert!(agree("postgres.jsonl") >= 85);
}

#[test]
fn what_mappers_write_is_read_as_postgres_reads_it() {
    assert!(agree("orm.jsonl") >= 95);
}
