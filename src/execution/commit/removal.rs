//! Removal of old rows from `trunkline.commits`.
//!
//! A row is needed as long as anything of its transaction may be prepared anywhere. When a decision can be seen, everything of it has been prepared
//! before; so rows are chosen first, then every shard is asked what is prepared, and what is on no shard's list may go.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::future::join_all;

use super::decision::{shards, within};
use super::id::{Gid, TransactionId};
use super::install::Trouble;
use super::statements;
use crate::sharding::ShardId;
use crate::topology::Topology;

/// Rows that are removed from one shard at a time.
const MOST: i64 = 10_000;

/// Rows that are old enough. That of an abort must outlast whatever its owner may have sent before the abort, and has not been read by the server yet.
/// A row that names a shard which is not configured stays: that shard cannot be asked.
const OLD: &str = "SELECT id FROM trunkline.commits
    WHERE CASE outcome WHEN 'commit' THEN at < clock_timestamp() - interval '1 hour' AND shards <@ $1
                       ELSE at < clock_timestamp() - interval '1 day' END
    ORDER BY id LIMIT $2";

/// In every database. Does nothing where a shard cannot be asked.
pub async fn remove_old(topology: &Arc<Topology>) {
    let config = topology.config();
    if config.shards.len() < 2 {
        return;
    }
    for database in &config.databases {
        let names: Vec<&str> = shards(&config).map(|(_, name)| name).collect();
        match remove(topology, &database.name, &names).await {
            Ok(0) => {}
            Ok(removed) => {
                tracing::debug!(
                    database = database.name,
                    removed,
                    "old decisions were removed"
                );
            }
            Err(trouble) => {
                tracing::debug!(database = database.name, %trouble, "old decisions stay for now");
            }
        }
    }
}

/// Removes what is old in one database; `shards`: their names. Gives the number of rows.
async fn remove(topology: &Topology, database: &str, shards: &[&str]) -> Result<u64, Trouble> {
    let ids = || (0..).take(shards.len()).map(ShardId);
    let choosing = ids().map(|shard| old(topology, database, shard, shards));
    let chosen = all(join_all(choosing).await)?;
    if chosen.iter().all(Vec::is_empty) {
        return Ok(0);
    }
    let asking = ids().map(|shard| in_use(topology, database, shard));
    let in_use: HashSet<TransactionId> =
        all(join_all(asking).await)?.into_iter().flatten().collect();
    let removing = ids().zip(chosen).map(|(shard, mut chosen)| {
        // What is no id of ours was not put there by us.
        chosen.retain(|id| TransactionId::parse(id).is_ok_and(|id| !in_use.contains(&id)));
        delete(topology, database, shard, chosen)
    });
    Ok(all(join_all(removing).await)?.into_iter().sum())
}

fn all<T>(answers: Vec<Result<T, Trouble>>) -> Result<Vec<T>, Trouble> {
    answers.into_iter().collect()
}

async fn old(
    topology: &Topology,
    database: &str,
    shard: ShardId,
    shards: &[&str],
) -> Result<Vec<String>, Trouble> {
    within(async {
        let primary = topology.primary(database, shard).await?;
        let rows = primary.query(OLD, &[&shards, &MOST]).await?;
        let ids = rows.iter().map(|row| row.try_get(0));
        let ids = ids.collect::<Result<_, _>>()?;
        primary.release();
        Ok(ids)
    })
    .await
}

async fn in_use(
    topology: &Topology,
    database: &str,
    shard: ShardId,
) -> Result<Vec<TransactionId>, Trouble> {
    within(async {
        let primary = topology.primary(database, shard).await?;
        let prepared = statements::prepared(&primary).await?;
        primary.release();
        let names = prepared.iter().map(|prepared| Gid::parse(&prepared.gid));
        Ok(names.flatten().map(|gid| gid.id).collect())
    })
    .await
}

async fn delete(
    topology: &Topology,
    database: &str,
    shard: ShardId,
    ids: Vec<String>,
) -> Result<u64, Trouble> {
    if ids.is_empty() {
        return Ok(0);
    }
    within(async {
        let primary = topology.primary(database, shard).await?;
        let delete = "DELETE FROM trunkline.commits WHERE id = ANY ($1)";
        let removed = primary.execute(delete, &[&ids]).await?;
        primary.release();
        Ok(removed)
    })
    .await
}
