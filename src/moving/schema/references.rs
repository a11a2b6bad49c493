//! Copies of reference tables, on a shard that gets rows and lacks them.
//!
//! Whoever writes a reference table writes it on every shard, and fails as a whole where it is missing. While a copy is made, the first shard that has the
//! table keeps writers out (not readers): those who were there before have come to their end, and those who wait find the table on the new shard.

use std::pin::pin;

use futures_util::{SinkExt, StreamExt};
use tokio_postgres::{Client, CopyInSink, Error};

use super::{Building, LOCK, Made, Rest, SchemaError, make, parts, read_relations, rest};
use crate::catalog::QualifiedName as Name;
use crate::moving::scope::Scope;
use crate::moving::shards::Shards;
use crate::moving::table;
use crate::resharding::condition::quoted_name;
use crate::resharding::job::ShardName;

/// How long a copy waits for those who write the table, each time it is tried: others wait behind it.
const LOCK_WAIT: &str = "200ms";

/// The copies that are missing, each with its rows, all of one source in one transaction; what was made, as people call it.
pub async fn bring_references_on(
    shards: &Shards,
    scope: &Scope,
    target: &ShardName,
) -> Result<Made, SchemaError> {
    let mut missing = Vec::new();
    let client = shards.open(target).await?;
    for name in &scope.references {
        if !has(&client, name).await? {
            missing.push(name.clone());
        }
    }
    let mut made = Made::default();
    for shard in scope.shards.iter().filter(|shard| **shard != target.0) {
        if missing.is_empty() {
            break;
        }
        let source = shards.open(&ShardName(shard.clone())).await?;
        let mut here = Vec::new();
        for name in std::mem::take(&mut missing) {
            match has(&source, &name).await? {
                true => here.push(name),
                false => missing.push(name),
            }
        }
        if !here.is_empty() {
            made.0.extend(bring(&source, &client, &here).await?.0);
        }
    }
    Ok(made)
}

fn quoted((schema, name): &Name) -> String {
    format!("{}.{}", quoted_name(schema), quoted_name(name))
}

async fn has(client: &Client, name: &Name) -> Result<bool, SchemaError> {
    let row = client
        .query_one("SELECT to_regclass($1) IS NOT NULL", &[&quoted(name)])
        .await?;
    Ok(row.get(0))
}

async fn bring(source: &Client, target: &Client, names: &[Name]) -> Result<Made, SchemaError> {
    let quoted: Vec<String> = names.iter().map(quoted).collect();
    source
        .batch_execute(&format!(
            "BEGIN; SET LOCAL lock_timeout = '{LOCK_WAIT}'; LOCK TABLE {} IN SHARE MODE",
            quoted.join(", ")
        ))
        .await?;
    target
        .batch_execute(&format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock({LOCK});
             SET LOCAL check_function_bodies = off; SET LOCAL session_replication_role = replica"
        ))
        .await?;
    let made = copy(source, target, names).await;
    // The writers are let in when the copy is there.
    let end = match &made {
        Ok(_) => "COMMIT",
        Err(_) => "ROLLBACK",
    };
    let ended = target.batch_execute(end).await;
    source.batch_execute("ROLLBACK").await?;
    let made = made?;
    ended?;
    Ok(made)
}

async fn copy(source: &Client, target: &Client, names: &[Name]) -> Result<Made, SchemaError> {
    let mut missing = Vec::new();
    for name in names {
        // One that somebody has made meanwhile is theirs.
        if !has(target, name).await? {
            missing.push(name);
        }
    }
    let tables: Vec<(&str, &str)> = missing.iter().map(|(s, n)| (&**s, &**n)).collect();
    let relations = read_relations(source, &tables).await?;
    let made = make(target, &parts(source, &relations).await?).await?;
    for name in missing {
        rows(source, target, name).await?;
    }
    match rest::build(source, target, &relations, Building::AtOnce).await? {
        Rest::Built => Ok(made),
        Rest::Later(why) => Err(SchemaError::Later(why)),
    }
}

async fn rows(source: &Client, target: &Client, name: &Name) -> Result<(), SchemaError> {
    let shape = table::read(source, &name.0, &name.1).await?;
    let shape = shape.ok_or_else(|| SchemaError::NoTable(quoted(name).into()))?;
    let written = shape.columns.iter().filter(|column| !column.generated);
    let columns: Vec<String> = written.map(|column| quoted_name(&column.name)).collect();
    let columns = columns.join(", ");
    let table = quoted(name);
    let out = format!("COPY (SELECT {columns} FROM {table}) TO STDOUT");
    let mut out = pin!(source.copy_out(&out).await?);
    let sink: CopyInSink<bytes::Bytes> = target
        .copy_in(&format!("COPY {table} ({columns}) FROM STDIN"))
        .await?;
    let mut sink = pin!(sink);
    let piped: Result<(), Error> = async {
        while let Some(some) = out.next().await {
            sink.send(some?).await?;
        }
        sink.finish().await.map(drop)
    }
    .await;
    piped.map_err(|error| SchemaError::Refused {
        what: format!("the copy of {table}").into(),
        error: error.into(),
    })
}
