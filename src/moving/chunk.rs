//! One chunk of a table: read in one snapshot, staged on the receiving shard, inserted in one transaction with how far it goes.

use std::fmt::Write as _;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::time::{Instant, sleep};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

use crate::resharding::condition::quoted_name;
use crate::wire::replication::Lsn;

use super::apply::{begin, is_in_the_way, judged};
use super::claim::{Claim, FlowError};
use super::pace::Pace;
use super::place::Layout;
use super::seam::Seam;
use super::shards::Connection;
use super::statements;
use super::tombstones::{ChunkId, KeyText, Snapshot, Verdict};

/// What a chunk is to take.
const WANTED: Duration = Duration::from_millis(200);
const FEWEST_ROWS: u64 = 1000;
const MOST_ROWS: u64 = 100_000;
/// Rows of the first chunk of a table.
const FIRST_ROWS: u64 = 4000;
/// Bytes of a chunk, as far as the rows before tell.
const MOST_BYTES: u64 = 16 * 1024 * 1024;
/// How often a chunk is tried while rows are in its way.
const ATTEMPTS: u32 = 50;
/// How long between two looks whether a snapshot counts by now.
const RETRY: Duration = Duration::from_millis(20);

/// A table of a way, as it is copied.
#[derive(Debug)]
pub(super) struct Sheet {
    pub layout: Layout,
    /// Which rows go this way.
    pub condition: String,
    pub format: Format,
    /// The setting in which keys are compared.
    pub search_path: String,
    pub obstacles: Obstacles,
}

/// What beside its key can be in a row's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacles {
    Nothing,
    /// Unique values and the like, seen at once.
    Immediate,
    /// Some are seen at the end of a statement or transaction only.
    Deferrable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Binary,
    Text,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Format::Binary => "binary",
            Format::Text => "text",
        }
    }
}

/// The keys from behind `position` up to and with `until`.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub sheet: Arc<Sheet>,
    pub number: i32,
    pub position: Option<Vec<String>>,
    pub until: Option<Vec<String>>,
}

/// Sees that the driver and the plan are the ones in force, until the end of the transaction.
const HOLD: &str =
    "SELECT FROM trunkline.reshard_streams s JOIN trunkline.reshard_ledger l ON l.number = s.number
    WHERE s.number = $1 AND s.source = $2 AND s.driver = $3 AND NOT l.closed FOR SHARE";

const NOTE: &str = "UPDATE trunkline.reshard_chunks SET position = coalesce($5, position), row_count = row_count + $6, done = $7
    WHERE number = $1 AND source = $2 AND relation = $3 AND part = $4";

const SOURCE_SETTINGS: &str =
    "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off; SET jit = off;
    SET max_parallel_workers_per_gather = 0; SET default_transaction_read_only = on";
const TARGET_SETTINGS: &str = "SET session_replication_role = replica; SET plan_cache_mode = force_custom_plan; SET jit = off";

/// Copies chunk after chunk, over connections of its own.
pub(super) struct Worker {
    claim: Claim,
    seam: Arc<Seam>,
    pace: Arc<Pace>,
    source: Connection,
    target: Connection,
    hold: Statement,
    note: Statement,
    /// The table that can be staged now.
    staged: Option<(Arc<Sheet>, Staged)>,
}

struct Staged {
    insert: Statement,
    insert_without: Statement,
    left_out: Statement,
}

/// What became of what was staged.
enum Inserted {
    All,
    /// Not all deletions behind its snapshot are known.
    ReadAgain,
}

/// Why it was not inserted.
enum Refusal {
    Row(tokio_postgres::Error),
    Flow(FlowError),
}

impl From<tokio_postgres::Error> for Refusal {
    fn from(error: tokio_postgres::Error) -> Refusal {
        Refusal::Row(error)
    }
}

impl From<FlowError> for Refusal {
    fn from(error: FlowError) -> Refusal {
        Refusal::Flow(error)
    }
}

/// What a chunk brought.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Brought {
    pub rows: u64,
    pub bytes: u64,
}

impl Worker {
    pub async fn new(
        claim: Claim,
        seam: Arc<Seam>,
        pace: Arc<Pace>,
        source: Connection,
        target: Connection,
    ) -> Result<Worker, FlowError> {
        source.batch_execute(SOURCE_SETTINGS).await?;
        target
            .batch_execute(TARGET_SETTINGS)
            .await
            .map_err(|error| judged(error, Some("replicated rows cannot be written")))?;
        let (hold, note) = (target.prepare(HOLD).await?, target.prepare(NOTE).await?);
        Ok(Worker {
            claim,
            seam,
            pace,
            source,
            target,
            hold,
            note,
            staged: None,
        })
    }

    /// Copies a part to its end. `tell` hears of each chunk.
    pub async fn copy(
        &mut self,
        mut part: Part,
        mut tell: impl FnMut(Brought),
    ) -> Result<(), FlowError> {
        self.stage(&part.sheet).await?;
        let mut rows = FIRST_ROWS;
        loop {
            self.pace.admitted().await;
            let began = Instant::now();
            let Some((brought, last)) = self.chunk(&part, rows).await? else {
                continue;
            };
            self.pace.spent(brought.bytes);
            tell(brought);
            if brought.rows < rows {
                return Ok(());
            }
            part.position = last;
            rows = next_size(rows, brought, began.elapsed());
        }
    }

    /// Makes ready for a table.
    async fn stage(&mut self, sheet: &Arc<Sheet>) -> Result<(), FlowError> {
        if { self.staged.as_ref() }.is_some_and(|(staged, _)| Arc::ptr_eq(staged, sheet)) {
            return Ok(());
        }
        self.staged = None;
        let refused = |error| judged(error, Some(&sheet.layout.name));
        self.source.batch_execute(&sheet.search_path).await?;
        let make = format!(
            "{}; DROP TABLE IF EXISTS pg_temp.trunkline_stage;
             CREATE TEMP TABLE trunkline_stage ON COMMIT DELETE ROWS AS SELECT {} FROM {} WITH NO DATA;
             ALTER TABLE pg_temp.trunkline_stage ADD COLUMN trunkline_place bigint GENERATED ALWAYS AS IDENTITY",
            sheet.search_path,
            sheet.columns(),
            sheet.layout.name,
        );
        self.target.batch_execute(&make).await.map_err(refused)?;
        let prepare = async |text: String| self.target.prepare(&text).await.map_err(refused);
        let staged = Staged {
            insert: prepare(sheet.insert("")).await?,
            insert_without: prepare(sheet.insert(&sheet.without())).await?,
            left_out: prepare(sheet.left_out()).await?,
        };
        self.staged = Some((Arc::clone(sheet), staged));
        Ok(())
    }

    /// One chunk; with the last key in it. `None`: it must be read again.
    async fn chunk(
        &mut self,
        part: &Part,
        rows: u64,
    ) -> Result<Option<(Brought, Option<Vec<String>>)>, FlowError> {
        let Some(chunk) = self.open().await? else {
            sleep(RETRY).await;
            return Ok(None);
        };
        let done = self.bring(part, rows, chunk).await;
        self.seam.tombstones.write().await.close(chunk);
        done
    }

    /// Opens a transaction on the source whose snapshot counts.
    async fn open(&self) -> Result<Option<ChunkId>, FlowError> {
        self.seam.tombstones.write().await.expect();
        self.source
            .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .await?;
        let snapshot = snapshot(&self.source).await?;
        let mut tombstones = self.seam.tombstones.write().await;
        let counts = tombstones.counts(&snapshot);
        let chunk = tombstones.open(snapshot);
        if counts {
            return Ok(Some(chunk));
        }
        tombstones.close(chunk);
        drop(tombstones);
        self.source.batch_execute("COMMIT").await?;
        Ok(None)
    }

    async fn bring(
        &self,
        part: &Part,
        rows: u64,
        chunk: ChunkId,
    ) -> Result<Option<(Brought, Option<Vec<String>>)>, FlowError> {
        let (sheet, staged) = self.staged.as_ref().expect("is staged before its chunks");
        let refused = |error| judged(error, Some(&sheet.layout.name));
        self.target.batch_execute(&begin(self.claim.number)).await?;
        let brought = self.pipe(sheet, part, rows).await?;
        self.source.batch_execute("COMMIT").await?;
        let last = self.last_key(sheet).await?;

        for attempt in 1.. {
            let place = log_end(&self.source).await?;
            self.target.batch_execute("SAVEPOINT staged").await?;
            match self
                .insert(sheet, staged, part, chunk, (brought, rows), &last)
                .await
            {
                Ok(Inserted::All) => break,
                Ok(Inserted::ReadAgain) => {
                    self.target.batch_execute("ROLLBACK").await?;
                    return Ok(None);
                }
                Err(Refusal::Flow(error)) => return Err(error),
                Err(Refusal::Row(error)) if is_in_the_way(&error) && attempt < ATTEMPTS => {
                    // A row is in the way that is older than the chunk. It is not, when as much is applied as the chunk has seen.
                    self.target
                        .batch_execute("ROLLBACK TO SAVEPOINT staged")
                        .await?;
                    self.seam.until_applied(place).await;
                }
                Err(Refusal::Row(error)) => return Err(refused(error)),
            }
        }
        self.target.batch_execute("COMMIT").await.map_err(refused)?;
        Ok(Some((brought, last)))
    }

    /// What is staged, and how far it goes. Of the rows wanted were so many brought.
    async fn insert(
        &self,
        sheet: &Sheet,
        staged: &Staged,
        part: &Part,
        chunk: ChunkId,
        (brought, wanted): (Brought, u64),
        last: &Option<Vec<String>>,
    ) -> Result<Inserted, Refusal> {
        // To the end of the transaction nothing is applied: the row that is held keeps others off, and this our own.
        let tombstones = self.seam.tombstones.read().await;
        let claim = &self.claim;
        let parameters: [&(dyn ToSql + Sync); 3] = [&claim.number, &&*claim.source, &claim.token];
        let held = self.target.query_opt(&self.hold, &parameters).await;
        if held.map_err(FlowError::from)?.is_none() {
            return Err(claim.lost().into());
        }
        let Verdict::Without(gone) = tombstones.judge(chunk, sheet.layout.table) else {
            return Ok(Inserted::ReadAgain);
        };
        let arrays = arrays(&gone, sheet.layout.found_by.len());
        let keys: Vec<_> = arrays.iter().map(|a| a as &(dyn ToSql + Sync)).collect();
        let inserted = match gone.is_empty() {
            true => self.target.execute(&staged.insert, &[]).await?,
            false => self.target.execute(&staged.insert_without, &keys).await?,
        };
        if sheet.obstacles == Obstacles::Deferrable {
            self.target
                .batch_execute("SET CONSTRAINTS ALL IMMEDIATE")
                .await?;
        }
        if inserted < brought.rows && sheet.obstacles != Obstacles::Nothing {
            for row in self.target.query(&staged.left_out, &keys).await? {
                let key: KeyText = { 0..row.len() }
                    .map(|n| row.get::<_, &str>(n).into())
                    .collect();
                let why = format!(
                    "row ({}) of {} cannot be stored on {}: another row there has a value that must be unique",
                    key.join(", "),
                    sheet.layout.name,
                    claim.shard.0
                );
                tombstones.owe(sheet.layout.table, key, why.into());
            }
        }
        let count = i64::try_from(brought.rows).unwrap_or(i64::MAX);
        let parameters: [&(dyn ToSql + Sync); 7] = [
            &claim.number,
            &&*claim.source,
            &&*sheet.layout.name,
            &part.number,
            last,
            &count,
            &(brought.rows < wanted),
        ];
        self.target.execute(&self.note, &parameters).await?;
        Ok(Inserted::All)
    }

    /// From the source to the stage, unread.
    async fn pipe(&self, sheet: &Sheet, part: &Part, rows: u64) -> Result<Brought, FlowError> {
        let refused = |error| judged(error, Some(&sheet.layout.name));
        let out = sheet.read(part, rows);
        let into = format!(
            "COPY pg_temp.trunkline_stage ({}) FROM STDIN (FORMAT {})",
            sheet.columns(),
            sheet.format.name()
        );
        let out = self.source.copy_out(&*out).await.map_err(refused)?;
        let into = self
            .target
            .copy_in::<_, Bytes>(&*into)
            .await
            .map_err(refused)?;
        let (mut out, mut into) = (pin!(out), pin!(into));
        let mut bytes = 0;
        while let Some(data) = out.next().await {
            let data = data.map_err(refused)?;
            bytes += data.len() as u64;
            into.feed(data).await.map_err(refused)?;
        }
        let rows = into.finish().await.map_err(refused)?;
        Ok(Brought { rows, bytes })
    }

    async fn last_key(&self, sheet: &Sheet) -> Result<Option<Vec<String>>, FlowError> {
        let text = format!(
            "SELECT {} FROM pg_temp.trunkline_stage AS t ORDER BY trunkline_place DESC LIMIT 1",
            texts(&sheet.layout, &sheet.layout.key, "t")
        );
        let row = self.target.query_opt(&text, &[]).await?;
        Ok(row.map(|row| (0..row.len()).map(|n| row.get(n)).collect()))
    }
}

/// What the transaction sees.
pub(super) async fn snapshot(client: &Client) -> Result<Snapshot, FlowError> {
    let row = client
        .query_one("SELECT pg_catalog.pg_current_snapshot()::text", &[])
        .await?;
    row.get::<_, &str>(0).parse().map_err(FlowError::again)
}

/// The end of the log.
async fn log_end(client: &Client) -> Result<Lsn, FlowError> {
    let row = client
        .query_one("SELECT pg_catalog.pg_current_wal_flush_lsn()::text", &[])
        .await?;
    row.get::<_, &str>(0).parse().map_err(FlowError::again)
}

/// Rows of the next chunk.
fn next_size(rows: u64, brought: Brought, took: Duration) -> u64 {
    let factor = WANTED.as_secs_f64() / took.as_secs_f64().max(0.001);
    let wanted = (rows as f64 * factor.clamp(0.5, 2.0)) as u64;
    let each = (brought.bytes / brought.rows.max(1)).max(1);
    // Few rows, if they are that large.
    let fit = (MOST_BYTES / each).max(1);
    wanted.clamp(FEWEST_ROWS, MOST_ROWS).min(fit)
}

/// Columns as the texts that their types write.
pub(super) fn texts(layout: &Layout, places: &[usize], alias: &str) -> String {
    let texts: Vec<_> = { places.iter() }
        .map(|place| quoted_name(&layout.columns[*place].name))
        .map(|name| format!("pg_catalog.format('%s', {alias}.{name})"))
        .collect();
    texts.join(", ")
}

fn arrays<'a>(keys: &[&'a KeyText], width: usize) -> Vec<Vec<&'a str>> {
    let mut arrays = vec![Vec::with_capacity(keys.len()); width];
    for key in keys {
        for (array, text) in arrays.iter_mut().zip(key.iter()) {
            array.push(&**text);
        }
    }
    arrays
}

impl Sheet {
    fn columns(&self) -> String {
        names(&self.layout, 0..self.layout.columns.len())
    }

    /// What reads a chunk.
    fn read(&self, part: &Part, rows: u64) -> String {
        let key = names(&self.layout, self.layout.key.iter().copied());
        let mut text = format!(
            "COPY (SELECT {} FROM {} WHERE {}",
            self.columns(),
            self.layout.name,
            self.condition
        );
        for (operator, bound) in [(">", &part.position), ("<=", &part.until)] {
            if let Some(bound) = bound {
                let _ = write!(
                    text,
                    " AND ROW({key}) {operator} ROW({})",
                    self.bound(bound)
                );
            }
        }
        let format = self.format.name();
        let _ = write!(
            text,
            " ORDER BY {key} LIMIT {rows}) TO STDOUT (FORMAT {format})"
        );
        text
    }

    fn bound(&self, values: &[String]) -> String {
        let values: Vec<_> = { values.iter().zip(&self.layout.key) }
            .map(|(value, place)| {
                let type_name = &self.layout.columns[*place].type_name;
                format!("'{}'::{type_name}", value.replace('\'', "''"))
            })
            .collect();
        values.join(", ")
    }

    /// What inserts the staged rows; whatever is there already is newer.
    fn insert(&self, filter: &str) -> String {
        let columns = self.columns();
        // Postgres leaves rows out for what it sees at once only.
        let arbiter = match self.obstacles {
            Obstacles::Nothing | Obstacles::Immediate => String::new(),
            Obstacles::Deferrable => {
                format!(
                    " ({})",
                    names(&self.layout, self.layout.key.iter().copied())
                )
            }
        };
        format!(
            "INSERT INTO {} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM pg_temp.trunkline_stage AS s
             WHERE TRUE{filter} ON CONFLICT{arbiter} DO NOTHING",
            self.layout.name
        )
    }

    /// Staged rows whose keys are not given.
    fn without(&self) -> String {
        let same: Vec<_> = { self.layout.found_by.iter().enumerate() }
            .map(|(n, place)| {
                let name = quoted_name(&self.layout.columns[*place].name);
                format!("n.a{n} = s.{name}")
            })
            .collect();
        format!(
            " AND NOT EXISTS (SELECT FROM ({}) AS n WHERE {})",
            statements::keys(&self.layout),
            same.join(" AND ")
        )
    }

    /// Keys of staged rows, but for given ones, that are not there although they were inserted.
    fn left_out(&self) -> String {
        let same: Vec<_> = { self.layout.found_by.iter() }
            .map(|place| quoted_name(&self.layout.columns[*place].name))
            .map(|name| format!("t.{name} = s.{name}"))
            .collect();
        format!(
            "SELECT {} FROM pg_temp.trunkline_stage AS s WHERE NOT EXISTS (SELECT FROM {} AS t WHERE {}){}",
            texts(&self.layout, &self.layout.found_by, "s"),
            self.layout.name,
            same.join(" AND "),
            self.without()
        )
    }
}

fn names(layout: &Layout, places: impl IntoIterator<Item = usize>) -> String {
    let names: Vec<_> = { places.into_iter() }
        .map(|place| quoted_name(&layout.columns[place].name))
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_take_their_time_and_no_more() {
        let size = |rows, bytes, took| {
            next_size(rows, Brought { rows, bytes }, Duration::from_millis(took))
        };
        assert_eq!(size(4000, 400_000, 200), 4000);
        assert_eq!(size(4000, 400_000, 10), 8000);
        assert_eq!(size(4000, 400_000, 300), 2666);
        assert_eq!(size(4000, 400_000, 10_000), 2000);
        assert_eq!(size(1000, 100_000, 10_000), 1000);
        assert_eq!(size(100_000, 10_000_000, 10), 100_000);
        // Large rows: 16 MB of them.
        assert_eq!(size(1000, 1024 * 1024 * 1000, 10), 16);
    }
}
