//! The tables of shards that get rows: made as they are where the rows come from, without what only slows a copy down; the rest is built behind it.
//!
//! Everything is read from the source's catalogs as *parts*: what it is, a question that tells whether the target has it, and the statements that
//! make it. A part that is there is never touched, whether or not it is the same: to compare is for [`super::check`].
//! [`used`] has types and functions, [`tables`] sequences and tables, [`rest`] what is built behind the copy, [`references`] brings reference tables.

mod references;
mod rest;
mod tables;
pub mod used;

use std::collections::BTreeSet;
use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::scope::{MovedTable, Scope};
use super::shards::{ShardError, Shards};
use crate::resharding::condition::quoted_name;
use crate::resharding::job::{Route, ShardName};

pub use references::bring_references_on;

/// Why tables could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error(transparent)]
    Shard(#[from] ShardError),
    #[error("the shard that rows come from has no table {0}")]
    NoTable(Box<str>),
    #[error("{what} could not be made: {error}")]
    Refused { what: Box<str>, error: ShardError },
    /// To be tried again.
    #[error("{0}")]
    Later(Box<str>),
}

impl From<tokio_postgres::Error> for SchemaError {
    fn from(error: tokio_postgres::Error) -> SchemaError {
        SchemaError::Shard(error.into())
    }
}

/// What was missing and has been made, as people call it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Made(pub Vec<Box<str>>);

/// How far indexes and constraints are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rest {
    /// All are there and valid.
    Built,
    /// Not yet, and why: a foreign key that the rows of now do not satisfy, as they may not while changes from before the copy are being applied;
    /// or somebody else builds. To be asked for again.
    Later(Box<str>),
}

/// Who writes a table on a shard that gets rows, until it owns their keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    /// Applications, rows of other keys.
    Applications,
    /// Nobody but who applies changes, which may wait for a moment.
    Plan,
}

/// How indexes are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Building<'a> {
    /// In the transaction that makes the tables.
    AtOnce,
    /// While the tables are written; these of the source only by the plan.
    Beside { plan_only: &'a [u32] },
}

/// One thing of the source.
struct Part {
    /// As people call it.
    what: Box<str>,
    /// SQL: one row with one boolean, whether it is there.
    probe: String,
    /// Statements, joined by semicolons. Without a transaction around them they are one.
    make: String,
}

/// Held by whoever changes the schema of a shard for a plan.
const LOCK: &str = "hashtextextended('trunkline reshard schema', 0)";

/// [`make_missing`] of every table that gets rows on this shard, from a shard that they come from.
pub async fn make_missing_on(
    shards: &Shards,
    scope: &Scope,
    target: &ShardName,
) -> Result<Made, SchemaError> {
    let client = shards.open(target).await?;
    let mut made = Made::default();
    for (source, tables) in sources(scope, target) {
        let source = shards.open(&source).await?;
        made.0
            .extend(make_missing(&source, &client, &tables).await?.0);
    }
    Ok(made)
}

/// [`build_rest`] of every table that gets rows on this shard.
pub async fn build_rest_on(
    shards: &Shards,
    scope: &Scope,
    target: &ShardName,
) -> Result<Rest, SchemaError> {
    let client = shards.open(target).await?;
    let mut later = None;
    for (source, tables) in sources(scope, target) {
        let source = shards.open(&source).await?;
        let writers = |table: &MovedTable| match scope.has_keys(table, target) {
            true => Writers::Applications,
            false => Writers::Plan,
        };
        if let Rest::Later(why) = build_rest(&source, &client, &tables, writers).await? {
            later = Some(why);
        }
    }
    Ok(later.map_or(Rest::Built, Rest::Later))
}

/// The shards that rows come from to this one, each with the tables that are read from it: every table once.
fn sources<'a>(scope: &'a Scope, target: &ShardName) -> Vec<(ShardName, Vec<&'a MovedTable>)> {
    let mut seen = BTreeSet::new();
    let mut sources = Vec::new();
    for Route { from, .. } in scope.routes().into_iter().filter(|one| one.to == *target) {
        let route = Route {
            from: from.clone(),
            to: target.clone(),
        };
        let tables: Vec<_> = scope
            .tables_of(&route)
            .filter(|table| seen.insert(table.quoted()))
            .collect();
        if !tables.is_empty() {
            sources.push((from, tables));
        }
    }
    sources
}

/// Makes what rows need to arrive: types, functions, sequences, and tables with all but secondary indexes, foreign keys, triggers, rules and
/// policies. All or nothing, and nothing that is there is touched.
pub async fn make_missing(
    source: &Client,
    target: &Client,
    tables: &[&MovedTable],
) -> Result<Made, SchemaError> {
    let relations = read_relations(source, &names(tables)).await?;
    let parts = parts(source, &relations).await?;
    target
        .batch_execute(&format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock({LOCK}); SET LOCAL check_function_bodies = off"
        ))
        .await?;
    let made = make(target, &parts).await;
    let end = match &made {
        Ok(_) => "COMMIT",
        Err(_) => "ROLLBACK",
    };
    let ended = target.batch_execute(end).await;
    let made = made?;
    ended?;
    Ok(made)
}

fn names<'a>(tables: &[&'a MovedTable]) -> Vec<(&'a str, &'a str)> {
    { tables.iter() }
        .map(|table| (&*table.schema, &*table.name))
        .collect()
}

/// What rows need to arrive.
async fn parts(source: &Client, relations: &[u32]) -> Result<Vec<Part>, SchemaError> {
    let mut parts = tables::schemas(source, relations).await?;
    parts.extend(used::parts(source, relations).await?);
    parts.extend(tables::sequences(source, relations).await?);
    parts.extend(tables::tables(source, relations).await?);
    Ok(parts)
}

async fn make(target: &Client, parts: &[Part]) -> Result<Made, SchemaError> {
    let mut made = Made::default();
    for part in parts {
        if !is_there(target, part).await? {
            run(target, part).await?;
            made.0.push(part.what.clone());
        }
    }
    Ok(made)
}

async fn is_there(target: &Client, part: &Part) -> Result<bool, SchemaError> {
    Ok(target.query_one(&part.probe, &[]).await?.get(0))
}

async fn run(target: &Client, part: &Part) -> Result<(), SchemaError> {
    let done = target.batch_execute(&part.make).await;
    done.map_err(|error| SchemaError::Refused {
        what: part.what.clone(),
        error: error.into(),
    })
}

/// Builds what [`make_missing`] left out and what a crash has left half done, while the tables are written.
pub async fn build_rest(
    source: &Client,
    target: &Client,
    tables: &[&MovedTable],
    writers: impl Fn(&MovedTable) -> Writers,
) -> Result<Rest, SchemaError> {
    let relations = read_relations(source, &names(tables)).await?;
    let plan_only: Vec<_> = { tables.iter().copied() }
        .filter(|table| writers(table) == Writers::Plan)
        .collect();
    let plan_only = read_relations(source, &names(&plan_only)).await?;
    let building = Building::Beside {
        plan_only: &plan_only,
    };
    if !lock(target).await? {
        return Ok(Rest::Later("another session builds indexes".into()));
    }
    let built = rest::build(source, target, &relations, building).await;
    let unlocked = target
        .batch_execute(&format!("SELECT pg_advisory_unlock({LOCK})"))
        .await;
    let built = built?;
    unlocked?;
    Ok(built)
}

/// Whoever built before may still be at it: a server goes on with what it was told to until it finds the client gone. It is not waited for
/// inside a statement: to build an index concurrently waits for every older statement, also for one that waits for the lock.
async fn lock(target: &Client) -> Result<bool, SchemaError> {
    for _ in 0..50 {
        let row = target
            .query_one(&format!("SELECT pg_try_advisory_lock({LOCK})"), &[])
            .await?;
        if row.get(0) {
            return Ok(true);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(false)
}

/// The tables and all their partitions, each behind its parent.
const TREE: &str = "WITH RECURSIVE tree AS (
      SELECT c.oid, ARRAY[w.place] AS path
        FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS w (schema, name, place)
        JOIN pg_namespace n ON n.nspname = w.schema
        JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
      UNION ALL
      SELECT p.oid, tree.path || p.oid::int8 FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid
        JOIN pg_class p ON p.oid = i.inhrelid AND p.relispartition)
    SELECT oid, cardinality(path) = 1 FROM tree ORDER BY path";

/// OIDs on the source of tables by schema and name, as [`TREE`] orders them.
pub(super) async fn read_relations(
    source: &Client,
    tables: &[(&str, &str)],
) -> Result<Vec<u32>, SchemaError> {
    let (schemas, names): (Vec<&str>, Vec<&str>) = tables.iter().copied().unzip();
    let rows = source.query(TREE, &[&schemas, &names]).await?;
    let roots = rows.iter().filter(|row| row.get(1)).count();
    if roots < tables.len() {
        for (schema, name) in tables {
            let found = source.query(TREE, &[&vec![schema], &vec![name]]).await?;
            if found.is_empty() {
                let quoted = format!("{}.{}", quoted_name(schema), quoted_name(name));
                return Err(SchemaError::NoTable(quoted.into()));
            }
        }
    }
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Parts from a query that takes the relations and gives what, probe and statements.
async fn read_parts(
    source: &Client,
    query: &str,
    relations: &[u32],
) -> Result<Vec<Part>, SchemaError> {
    let rows = source.query(query, &[&relations]).await?;
    Ok(rows
        .iter()
        .map(|row| Part {
            what: row.get::<_, &str>(0).into(),
            probe: row.get(1),
            make: row.get(2),
        })
        .collect())
}

/// Whether the rows of now are against it.
fn is_unsatisfied(error: &SchemaError) -> bool {
    let code =
        |error: &ShardError| error.sqlstate() == Some(SqlState::FOREIGN_KEY_VIOLATION.code());
    match error {
        SchemaError::Shard(error) | SchemaError::Refused { error, .. } => code(error),
        SchemaError::NoTable(_) | SchemaError::Later(_) => false,
    }
}
