//! One table on one shard: a connection and its answers.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::{StreamExt, pin_mut};
use tokio::time::Instant;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};

use crate::moving::ledger;
use crate::moving::shards::{Connection, ShardError, Shards};
use crate::resharding::job::ShardName;
use crate::wire::replication::Lsn;

use super::VerifyError;
use super::text::{Hold, Key, Span, Texts};

/// How often what is waited for is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Every statement here goes by the key; what statistics say of a table that was just filled, and of conditions that they know nothing of, is
/// no reason to read and sort all of it for each chunk.
const PLANNING: &str = "SET enable_seqscan = off; SET enable_sort = off";

/// What stands for a transaction in the list of locks, the prepared ones included.
const WRITERS: &str = "SELECT DISTINCT virtualtransaction FROM pg_locks
    WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (relation = $1 OR relation IN (SELECT relid FROM pg_partition_tree($1::oid::regclass)))";

/// The rows of a span, as far as one answer tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Digest {
    pub(super) rows: u64,
    sums: (Option<String>, Option<String>),
}

/// What a row was when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Another one for every change of the row, and for a new row of its key.
    pub(super) version: String,
    /// Of all its columns.
    pub(super) digest: Vec<u8>,
}

pub(super) struct RowsAt {
    pub(super) shard: ShardName,
    connection: Connection,
    oid: u32,
    texts: Texts,
}

impl RowsAt {
    pub(super) async fn open(
        shards: &Shards,
        shard: &ShardName,
        oid: u32,
        texts: Texts,
    ) -> Result<RowsAt, VerifyError> {
        let opened = async {
            let connection = shards.open(shard).await?;
            connection.batch_execute(PLANNING).await?;
            Ok::<_, ShardError>(connection)
        };
        Ok(RowsAt {
            connection: opened.await.map_err(|e| VerifyError::of(shard, e))?,
            shard: shard.clone(),
            oid,
            texts,
        })
    }

    /// Another connection to the same table.
    pub(super) async fn beside(&self, shards: &Shards) -> Result<RowsAt, VerifyError> {
        RowsAt::open(shards, &self.shard, self.oid, self.texts.clone()).await
    }

    /// The key of the span's row number `rows`, if it has so many.
    pub(super) async fn bound(&self, span: &Span, rows: u64) -> Result<Option<Key>, VerifyError> {
        let before = i64::try_from(rows.saturating_sub(1)).unwrap_or(i64::MAX);
        let found = self.ask(&self.texts.bound(span), span, &[&before]).await?;
        Ok(found.first().map(|row| row.get(0)))
    }

    pub(super) async fn digest(&self, span: &Span) -> Result<Digest, VerifyError> {
        let found = self.ask(&self.texts.digest(span), span, &[]).await?;
        let row = found.first().ok_or_else(|| self.strange())?;
        Ok(Digest {
            rows: u64::try_from(row.get::<_, i64>(0)).unwrap_or(0),
            sums: (row.get(1), row.get(2)),
        })
    }

    /// Every row of the span with its hashes; `None`: there are more than `most`.
    pub(super) async fn rows(
        &self,
        span: &Span,
        most: usize,
    ) -> Result<Option<HashMap<Key, (i64, i64)>>, VerifyError> {
        let limit = i64::try_from(most).unwrap_or(i64::MAX - 1) + 1;
        let text = self.texts.rows(span);
        let parameters = parameters(span, &[&limit]);
        let stream = self.connection.query_raw(&text, parameters).await;
        let stream = stream.map_err(|e| self.failed(e))?;
        pin_mut!(stream);
        let mut rows = HashMap::new();
        let mut count = 0;
        while let Some(row) = stream.next().await {
            let row = row.map_err(|e| self.failed(e))?;
            let (first, second): (i64, i64) = (row.get(1), row.get(2));
            // A key that is there twice, where nothing keeps it from that, is like no key that is there once.
            let sums = rows.entry(row.get(0)).or_insert((0_i64, 0_i64));
            *sums = (sums.0.wrapping_add(first), sums.1.wrapping_add(second));
            count += 1;
        }
        Ok((count <= most).then_some(rows))
    }

    /// The rows of these keys, by their place among them.
    pub(super) async fn found(
        &self,
        keys: &[Key],
        hold: Hold,
    ) -> Result<HashMap<usize, Found>, VerifyError> {
        let found = self.look_for(keys, hold).await;
        found.map_err(|e| self.failed(e))
    }

    async fn look_for(&self, keys: &[Key], hold: Hold) -> Result<HashMap<usize, Found>, Error> {
        let width = keys.first().map_or(0, Vec::len);
        let arrays: Vec<Vec<&str>> = (0..width)
            .map(|column| keys.iter().map(|key| key[column].as_str()).collect())
            .collect();
        let parameters: Vec<_> = arrays
            .iter()
            .map(|one| one as &(dyn ToSql + Sync))
            .collect();
        let mut found = HashMap::<usize, Found>::new();
        for row in self
            .connection
            .query(&self.texts.found(hold), &parameters)
            .await?
        {
            let place = usize::try_from(row.get::<_, i64>(0))
                .unwrap_or(0)
                .saturating_sub(1);
            let row = Found {
                version: row.get(1),
                digest: row.get(2),
            };
            match found.get_mut(&place) {
                None => drop(found.insert(place, row)),
                Some(other) => other.join(row),
            }
        }
        Ok(found)
    }

    /// The same, and the rows stay as they are until [`RowsAt::release`]. `None`: somebody holds one of them for longer than the limit.
    pub(super) async fn hold(
        &self,
        keys: &[Key],
        limit: Duration,
    ) -> Result<Option<HashMap<usize, Found>>, VerifyError> {
        let begin = format!(
            "BEGIN; SET LOCAL lock_timeout = {}",
            limit.as_millis().max(1)
        );
        let begun = self.connection.batch_execute(&begin).await;
        begun.map_err(|e| self.failed(e))?;
        match self.look_for(keys, Hold::Shared).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if gives_way(&error) => {
                self.release().await?;
                Ok(None)
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    pub(super) async fn release(&self) -> Result<(), VerifyError> {
        let ended = self.connection.batch_execute("ROLLBACK").await;
        ended.map_err(|e| self.failed(e))
    }

    /// See [`ledger::mark`].
    pub(super) async fn mark(&self, number: u64) -> Result<Lsn, VerifyError> {
        let mark = ledger::mark(&self.connection, number).await;
        mark.map_err(|e| self.failed(e))
    }

    /// Waits until whoever has written to the table, and could have it in the log and still hidden from others, has ended. A commit is in
    /// the log, and may be applied elsewhere, before it can be seen; until it can, the writer has its lock on the table.
    pub(super) async fn settle(&self, limit: Duration) -> Result<Settled, VerifyError> {
        let deadline = Instant::now() + limit;
        let mut writers = self.writers(None).await?;
        while !writers.is_empty() {
            if Instant::now() >= deadline {
                return Ok(Settled::No);
            }
            tokio::time::sleep(LOOK).await;
            writers = self.writers(Some(writers)).await?;
        }
        Ok(Settled::Yes)
    }

    async fn writers(&self, among: Option<Vec<String>>) -> Result<Vec<String>, VerifyError> {
        let text = format!("{WRITERS} AND ($2::text[] IS NULL OR virtualtransaction = ANY ($2))");
        let rows = self.connection.query(&text, &[&self.oid, &among]).await;
        let rows = rows.map_err(|e| self.failed(e))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn ask(
        &self,
        text: &str,
        span: &Span,
        more: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, VerifyError> {
        let rows = self.connection.query(text, &parameters(span, more)).await;
        rows.map_err(|e| self.failed(e))
    }

    fn failed(&self, error: Error) -> VerifyError {
        VerifyError::of(&self.shard, error)
    }

    fn strange(&self) -> VerifyError {
        VerifyError::of(
            &self.shard,
            ShardError::Strange("an aggregate without a row"),
        )
    }
}

/// Whether it was waited for to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    Yes,
    No,
}

impl Found {
    /// Two rows of one key, in whatever order they come.
    fn join(&mut self, other: Found) {
        if other.version < self.version {
            self.version.insert_str(0, &other.version);
        } else {
            self.version.push_str(&other.version);
        }
        let (first, second) = match other.digest < self.digest {
            true => (&other.digest, &self.digest),
            false => (&self.digest, &other.digest),
        };
        self.digest = [first.as_slice(), second].concat();
    }
}

/// Not now; another time it may be had. A lock that is not to be had in time, or a deadlock.
fn gives_way(error: &Error) -> bool {
    use tokio_postgres::error::SqlState;
    let code = error.code();
    code == Some(&SqlState::LOCK_NOT_AVAILABLE) || code == Some(&SqlState::T_R_DEADLOCK_DETECTED)
}

fn parameters<'a>(span: &'a Span, more: &[&'a (dyn ToSql + Sync)]) -> Vec<&'a (dyn ToSql + Sync)> {
    let bounds = [&span.after, &span.upto];
    let bounds = bounds.into_iter().flatten();
    let bounds = bounds.map(|key| key as &(dyn ToSql + Sync));
    bounds.chain(more.iter().copied()).collect()
}
