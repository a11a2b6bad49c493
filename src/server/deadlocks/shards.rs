//! Asking shards who waits for whom, and noting there what other proxies should know.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use thiserror::Error;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::execution::commit::id::Proxy;
use crate::execution::deadlock::table::{self, Note, Row, Table};
use crate::sharding::ShardId;
use crate::topology::{NodeError, Primary, Topology, TopologyError};

/// How long a shard may take for its answer.
const LONGEST: Duration = Duration::from_secs(2);

/// For how long a shard that gave no answer is not asked again.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// For how long a shard that could not be written to is not written to again.
const AFTER_REFUSAL: Duration = Duration::from_secs(60);

/// How often what was noted is noted again, though nothing has changed: others take old rows away.
const NOTE_AGAIN: Duration = Duration::from_secs(20);

/// All shards of all databases, as far as they were asked.
pub struct Shards {
    topology: Arc<Topology>,
    proxy: Proxy,
    known: HashMap<Place, Known>,
}

/// A database on a shard.
type Place = (Box<str>, ShardId);

#[derive(Default)]
struct Known {
    /// Once it was there it is taken to stay.
    table: Option<Table>,
    failed: Option<Instant>,
    refused: Option<Instant>,
    noted: Vec<Note>,
    noted_at: Option<Instant>,
}

/// What one shard said.
pub struct Look {
    pub shard: ShardId,
    pub rows: Vec<Row>,
}

/// Whether the table may be made where it is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Install {
    Allowed,
    Forbidden,
}

#[derive(Debug, Error)]
enum ShardError {
    #[error(transparent)]
    Topology(#[from] TopologyError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("it is not there, and transactions.install is off")]
    NotInstalled,
}

impl From<tokio_postgres::Error> for ShardError {
    fn from(error: tokio_postgres::Error) -> ShardError {
        ShardError::Node(NodeError::Postgres(error))
    }
}

impl Known {
    fn may_be_asked(&self, now: Instant) -> bool {
        let since = |failed: Instant| now.duration_since(failed);
        self.failed
            .is_none_or(|failed| since(failed) >= AFTER_FAILURE)
    }

    /// Whether these notes have to be written.
    fn wants(&self, notes: &[Note], now: Instant) -> bool {
        let since = |at: Instant| now.duration_since(at);
        let is_old = self.noted_at.is_none_or(|at| since(at) >= NOTE_AGAIN);
        let is_news = self.noted != notes || !notes.is_empty() && is_old;
        is_news && self.refused.is_none_or(|at| since(at) >= AFTER_REFUSAL)
    }
}

impl Shards {
    pub fn new(topology: Arc<Topology>, proxy: Proxy) -> Shards {
        Shards {
            topology,
            proxy,
            known: HashMap::new(),
        }
    }

    /// Asks shards at the same time, each also for these processes; those that give no answer are left out, for a while.
    pub async fn ask(&mut self, database: &str, asked: Vec<(ShardId, Vec<i32>)>) -> Vec<Look> {
        let now = Instant::now();
        let topology = &self.topology;
        let asking = asked.into_iter().filter_map(|(shard, pids)| {
            let known = self.known.get(&(Box::from(database), shard));
            let table = known.and_then(|known| known.table);
            let able = known.is_none_or(|known| known.may_be_asked(now));
            able.then(|| async move {
                let look = in_time(look(topology, database, shard, &pids, table));
                (shard, look.await)
            })
        });
        let answers = join_all(asking).await;
        let mut looks = Vec::new();
        for (shard, answer) in answers {
            let known = self.known.entry((Box::from(database), shard)).or_default();
            match answer {
                Ok((rows, table)) => {
                    known.failed = None;
                    known.table = (table == Table::There).then_some(table);
                    looks.push(Look { shard, rows });
                }
                Err(error) => {
                    tracing::warn!(database, shard = shard.0, %error, "a shard does not say who waits for whom there");
                    known.failed = Some(now);
                    known.table = None;
                }
            }
        }
        looks
    }

    /// Notes this and nothing else on these shards.
    pub async fn note(
        &mut self,
        database: &str,
        notes: Vec<(ShardId, Vec<Note>)>,
        install: Install,
    ) {
        let now = Instant::now();
        let (topology, proxy) = (&self.topology, self.proxy);
        let writing = notes.into_iter().filter_map(|(shard, notes)| {
            let known = self.known.get(&(Box::from(database), shard))?;
            let table = known.table;
            known.wants(&notes, now).then(|| async move {
                let sql = table::note(proxy, &notes);
                let write = in_time(write(topology, database, shard, &sql, table, install));
                (shard, write.await, notes)
            })
        });
        let written = join_all(writing).await;
        for (shard, written, notes) in written {
            let known = self.known.entry((Box::from(database), shard)).or_default();
            match written {
                Ok(()) => {
                    known.table = Some(Table::There);
                    known.refused = None;
                    known.noted = notes;
                    known.noted_at = Some(now);
                }
                Err(error) => {
                    tracing::warn!(
                        database, shard = shard.0, %error,
                        "trunkline.waits cannot be written: other proxies do not see deadlocks with transactions of this one"
                    );
                    known.refused = Some(now);
                    known.table = None;
                }
            }
        }
    }

    /// Nothing waits any more.
    pub async fn take_notes_back(&mut self) {
        let (topology, sql) = (&self.topology, table::note(self.proxy, &[]));
        let noted = self
            .known
            .iter_mut()
            .filter_map(|((database, shard), known)| {
                let noted = !std::mem::take(&mut known.noted).is_empty();
                noted.then_some((database, *shard, known.table))
            });
        let sql = &sql;
        let writing = noted.map(|(database, shard, table)| async move {
            let write = write(topology, database, shard, sql, table, Install::Forbidden);
            // What is left behind says nothing, and another proxy takes it away.
            let _ = in_time(write).await;
        });
        join_all(writing).await;
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, ShardError>>) -> Result<T, ShardError> {
    match tokio::time::timeout(LONGEST, work).await {
        Ok(done) => done,
        Err(_) => Err(NodeError::Slow(LONGEST).into()),
    }
}

/// Of one database on one shard. The only place that decides whose connections are used.
async fn lend(
    topology: &Topology,
    database: &str,
    shard: ShardId,
) -> Result<Primary, TopologyError> {
    topology.primary(database, shard).await
}

async fn look(
    topology: &Topology,
    database: &str,
    shard: ShardId,
    pids: &[i32],
    table: Option<Table>,
) -> Result<(Vec<Row>, Table), ShardError> {
    let primary = lend(topology, database, shard).await?;
    let table = match table {
        Some(table) => table,
        None => is_there(&primary).await?.0,
    };
    let messages = primary.simple_query(&table::look(pids, table)).await?;
    primary.release();
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => table::read(|column| row.try_get(column).ok().flatten()),
        _ => None,
    });
    Ok((rows.collect(), table))
}

async fn write(
    topology: &Topology,
    database: &str,
    shard: ShardId,
    sql: &str,
    table: Option<Table>,
    install: Install,
) -> Result<(), ShardError> {
    let primary = lend(topology, database, shard).await?;
    if table != Some(Table::There) {
        make(&primary, install).await?;
    }
    primary.batch_execute(sql).await?;
    primary.release();
    Ok(())
}

/// Makes the table where it is missing.
async fn make(client: &Client, install: Install) -> Result<(), ShardError> {
    // Whoever makes it at the same time may be faster, which is an error, whatever IF NOT EXISTS says.
    for attempt in 0..2 {
        let (table, schema) = is_there(client).await?;
        if table == Table::There {
            return Ok(());
        }
        if install == Install::Forbidden {
            return Err(ShardError::NotInstalled);
        }
        let made = async {
            if schema == Table::Missing {
                client.batch_execute(table::SCHEMA).await?;
            }
            client.batch_execute(table::TABLE).await
        };
        match made.await {
            Ok(()) => return Ok(()),
            Err(error) if attempt == 1 => return Err(error.into()),
            Err(_) => {}
        }
    }
    Ok(())
}

/// Whether the table is there, and its schema.
async fn is_there(client: &Client) -> Result<(Table, Table), ShardError> {
    let messages = client.simple_query(table::IS_THERE).await?;
    let there = |column| {
        let says = messages.iter().any(|message| match message {
            SimpleQueryMessage::Row(row) => row.try_get(column).ok().flatten() == Some("t"),
            _ => false,
        });
        if says { Table::There } else { Table::Missing }
    };
    Ok((there(0), there(1)))
}
