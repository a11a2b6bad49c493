//! SHOW ROUTE: where statements would go, one a row.

use super::super::Failure;
use super::super::only_database;
use super::super::table::{Cell, Column, Table, row, text};
use crate::catalog::{Catalog, SearchPath};
use crate::plan::Refusal;
use crate::plan::explain::{Explanation, Outcome, explain};
use crate::session::shared::Snapshot;

pub const ROUTE: &[Column] = &[
    text("statement"),
    text("class"),
    text("outcome"),
    text("shard"),
    text("tables"),
    text("keys"),
    text("hint_given"),
    text("refusal"),
    text("sqlstate"),
    text("reason"),
    text("hint"),
];

/// Keys that are shown; of more only the number is.
const MOST_KEYS: usize = 8;

/// Names without a schema are looked up in `public`: that is what a session has that has set nothing, unless a schema has its user's name.
pub fn route(
    snapshot: &Snapshot,
    sql: &str,
    database: Option<&str>,
    table: &mut Table,
) -> Result<(), Failure> {
    let catalog = catalog(snapshot, database)?;
    let search_path = SearchPath([Box::from("public")].into());
    match explain(sql, catalog, &search_path, None) {
        Ok(explanations) => explanations
            .iter()
            .for_each(|explanation| table.push(explained(explanation))),
        Err(error) => table.push(unread(sql, &Refusal::from(&error))),
    }
    Ok(())
}

/// The catalog of the database, which may be left unsaid when there is only one.
fn catalog<'a>(snapshot: &'a Snapshot, database: Option<&str>) -> Result<&'a Catalog, Failure> {
    let name = only_database(snapshot, database)?;
    Ok(&snapshot.catalogs[name])
}

fn explained(explanation: &Explanation) -> Vec<Cell> {
    let (outcome, shard) = match &explanation.outcome {
        Outcome::Session => ("session", None),
        Outcome::AnyShard { home } => ("any shard", Some(home.clone())),
        Outcome::Shard(shard) => ("shard", Some(shard.clone())),
        Outcome::AtBind(parameters) => return at_bind(explanation, parameters),
        Outcome::Spread(lines) => return spread(explanation, lines),
        Outcome::Refused(refusal) => return refused(explanation, refusal),
    };
    let mut cells = beginning(explanation, outcome, shard);
    cells.extend(row![Cell::Null, Cell::Null, Cell::Null, Cell::Null]);
    cells
}

fn at_bind(explanation: &Explanation, parameters: &str) -> Vec<Cell> {
    let mut cells = beginning(explanation, "parameters", None);
    cells.extend(row![
        Cell::Null,
        Cell::Null,
        format!("{parameters} decides the shard"),
        Cell::Null
    ]);
    cells
}

fn spread(explanation: &Explanation, lines: &str) -> Vec<Cell> {
    let mut cells = beginning(explanation, "several shards", None);
    cells.extend(row![Cell::Null, Cell::Null, lines.to_owned(), Cell::Null]);
    cells
}

fn refused(explanation: &Explanation, refusal: &Refusal) -> Vec<Cell> {
    let mut cells = beginning(explanation, "refused", None);
    cells.extend(why(refusal));
    cells
}

fn unread(sql: &str, refusal: &Refusal) -> Vec<Cell> {
    let mut cells = row![
        sql,
        Cell::Null,
        "refused",
        Cell::Null,
        Cell::Null,
        Cell::Null,
        Cell::Null
    ];
    cells.extend(why(refusal));
    cells
}

fn why(refusal: &Refusal) -> Vec<Cell> {
    row![
        refusal.id,
        refusal.sqlstate,
        &*refusal.message,
        refusal.hint
    ]
}

/// The columns that every outcome has.
fn beginning(explanation: &Explanation, outcome: &'static str, shard: Option<String>) -> Vec<Cell> {
    let tables = explanation
        .tables
        .iter()
        .map(|table| format!("{}: {}", table.name, table.placement));
    let key = |key: &crate::plan::explain::Key| {
        format!(
            "{} {}: {} -> {}",
            key.distribution, key.values, key.via, key.shard
        )
    };
    let mut keys: Vec<String> = explanation.keys.iter().take(MOST_KEYS).map(key).collect();
    if explanation.keys.len() > MOST_KEYS {
        keys.push(format!("and {} more", explanation.keys.len() - MOST_KEYS));
    }
    row![
        explanation.statement.trim(),
        &*explanation.class,
        outcome,
        shard,
        joined(tables.collect()),
        joined(keys),
        explanation.hint.as_deref(),
    ]
}

fn joined(parts: Vec<String>) -> Option<String> {
    (!parts.is_empty()).then(|| parts.join("; "))
}
