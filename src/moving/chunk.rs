//! One chunk of a table: read in one snapshot, written on the receiving shard in one transaction with how far it goes.
//!
//! It goes straight into the table, without the rows that changes have put there before it. Where other unique values are in the way, or too much is there,
//! it is staged first: `INSERT ... ON CONFLICT` costs the receiving server three times as much, and leaves out row by row.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tokio::time::{Instant, sleep};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use super::apply::{begin, is_in_the_way, judged};
use super::claim::{Claim, FlowError};
use super::ledger::mark;
use super::pace::Pace;
use super::seam::Seam;
use super::shards::Connection;
use super::sheet::{Obstacles, Part, Reached, Sheet};
use super::tombstones::{ChunkId, KeyText, Snapshot, Verdict};

/// What a chunk is to take.
const WANTED: Duration = Duration::from_millis(200);
const FEWEST_ROWS: u64 = 1000;
const MOST_ROWS: u64 = 100_000;
/// Rows of the first chunk of a table, and where a rate is to be kept: how wide they are is not known yet.
const FIRST_ROWS: u64 = 4000;
const FIRST_ROWS_SLOWLY: u64 = 250;
/// Bytes of a chunk, as far as the rows before tell.
const MOST_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes that are sent together.
const TOGETHER: usize = 64 * 1024;
/// Most rows that a chunk is read without.
const MOST_LEFT_OUT: usize = 2000;
/// How often a chunk is tried while rows are in its way.
const ATTEMPTS: u32 = 50;
/// How long between two looks whether a snapshot counts by now.
const RETRY: Duration = Duration::from_millis(20);

/// Sees that the driver and the plan are the ones in force, until the end of the transaction.
const HOLD: &str =
    "SELECT FROM trunkline.reshard_streams s JOIN trunkline.reshard_ledger l ON l.number = s.number
    WHERE s.number = $1 AND s.source = $2 AND s.driver = $3 AND NOT l.closed FOR SHARE";

const NOTE: &str = "UPDATE trunkline.reshard_chunks SET position = coalesce($5, position), row_count = row_count + $6, done = $7
    WHERE number = $1 AND source = $2 AND relation = $3 AND part = $4";

const SOURCE_SETTINGS: &str =
    "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off; SET jit = off;
    SET max_parallel_workers_per_gather = 0; SET default_transaction_read_only = on";
/// What is there of a chunk is found by the key's index, whatever is known of a table that is being filled.
const TARGET_SETTINGS: &str =
    "SET session_replication_role = replica; SET plan_cache_mode = force_custom_plan; SET jit = off;
    SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off";

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
    /// How many rows a chunk of a table has had last.
    learned: Option<(Arc<Sheet>, u64)>,
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
    /// Rows that were there before.
    pub there: u64,
}

/// How many rows a chunk is to have, and when it began.
#[derive(Clone, Copy, Debug)]
struct Size {
    rows: u64,
    began: Instant,
    /// Bytes that the one behind it may have.
    most_bytes: u64,
}

/// A chunk that is to be written.
struct Piece<'a> {
    part: &'a Part,
    size: Size,
    reached: Reached,
    /// The snapshot that it is read in.
    chunk: ChunkId,
}

/// A chunk that is there.
struct Done {
    brought: Brought,
    reached: Reached,
    /// The end of the one behind it, where it was looked for.
    next: Option<Reached>,
}

/// What became of a chunk.
enum Written {
    All {
        brought: Brought,
        next: Option<Reached>,
    },
    /// Not all deletions behind its snapshot are known.
    ReadAgain,
    /// Something is in the way of a row.
    Blocked,
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
            learned: None,
        })
    }

    /// Copies a part to its end. `tell` hears of each chunk.
    pub async fn copy(
        &mut self,
        mut part: Part,
        mut tell: impl FnMut(Brought),
    ) -> Result<(), FlowError> {
        self.turn_to(&part.sheet).await?;
        let mut rows = match &self.learned {
            Some((sheet, rows)) if Arc::ptr_eq(sheet, &part.sheet) => *rows,
            _ if self.pace.turn().is_some() => FIRST_ROWS_SLOWLY,
            _ => FIRST_ROWS,
        };
        // Of the chunk that comes, where it is known by now.
        let mut end = None;
        loop {
            self.pace.admitted().await;
            let size = Size {
                rows,
                began: Instant::now(),
                most_bytes: { self.pace.turn() }.map_or(MOST_BYTES, |turn| turn.min(MOST_BYTES)),
            };
            let Some(done) = self.chunk(&part, size, end.take()).await? else {
                continue;
            };
            self.pace.spent(done.brought.bytes);
            tell(done.brought);
            rows = size.next(done.brought);
            self.learned = Some((Arc::clone(&part.sheet), rows));
            if done.reached.is_none() {
                return Ok(());
            }
            part.position = done.reached;
            end = done.next;
        }
    }

    /// Compares keys as the table's do.
    async fn turn_to(&mut self, sheet: &Arc<Sheet>) -> Result<(), FlowError> {
        if { self.staged.as_ref() }.is_some_and(|(staged, _)| !Arc::ptr_eq(staged, sheet)) {
            self.staged = None;
        }
        self.source.batch_execute(&sheet.search_path).await?;
        self.target.batch_execute(&sheet.search_path).await?;
        Ok(())
    }

    /// Makes a stage for the table.
    async fn stage(&mut self, sheet: &Arc<Sheet>) -> Result<(), FlowError> {
        if self.staged.is_some() {
            return Ok(());
        }
        let refused = |error| judged(error, Some(&sheet.layout.name));
        let make = format!(
            "DROP TABLE IF EXISTS pg_temp.trunkline_stage;
             CREATE TEMP TABLE trunkline_stage ON COMMIT DELETE ROWS AS SELECT {} FROM {} WITH NO DATA",
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

    /// One chunk, to this end where that is known. `None`: it must be read again.
    async fn chunk(
        &mut self,
        part: &Part,
        size: Size,
        end: Option<Reached>,
    ) -> Result<Option<Done>, FlowError> {
        let Some(chunk) = self.open().await? else {
            sleep(RETRY).await;
            return Ok(None);
        };
        let done = self.bring(part, size, end, chunk).await;
        self.seam.tombstones.read().await.close(chunk);
        done
    }

    /// Opens a transaction on the source whose snapshot counts.
    async fn open(&self) -> Result<Option<ChunkId>, FlowError> {
        self.seam.tombstones.read().await.expect();
        self.source
            .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .await?;
        let snapshot = snapshot(&self.source).await?;
        let tombstones = self.seam.tombstones.read().await;
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

    /// The end of the next so many rows of a part. Any key is one: it need not be of the snapshot that the rows are read in.
    async fn cut(&self, part: &Part, rows: u64) -> Result<Reached, FlowError> {
        let sheet = &part.sheet;
        let cut = self.source.query_opt(&sheet.cut(part, rows), &[]).await;
        let cut = cut.map_err(|error| judged(error, Some(&sheet.layout.name)))?;
        Ok(cut.map(|row| (0..row.len()).map(|n| row.get(n)).collect()))
    }

    async fn bring(
        &mut self,
        part: &Part,
        size: Size,
        end: Option<Reached>,
        chunk: ChunkId,
    ) -> Result<Option<Done>, FlowError> {
        let sheet = &part.sheet;
        let reached = match end {
            Some(reached) => reached,
            None => self.cut(part, size.rows).await?,
        };
        let piece = Piece {
            part,
            size,
            reached,
            chunk,
        };
        let straight = match sheet.obstacles {
            Obstacles::Deferrable => Written::Blocked,
            Obstacles::Nothing | Obstacles::Immediate => self.straight(&piece).await?,
        };
        let written = match straight {
            Written::Blocked => {
                self.stage(sheet).await?;
                self.by_way_of_the_stage(&piece).await?
            }
            written => written,
        };
        Ok(match written {
            Written::All { brought, next } => Some(Done {
                brought,
                reached: piece.reached,
                next,
            }),
            Written::ReadAgain | Written::Blocked => None,
        })
    }

    /// From the source into the table, in one go. Rows that are there already, put by changes that were applied before, are not even read.
    async fn straight(&self, piece: &Piece<'_>) -> Result<Written, FlowError> {
        let Piece { part, reached, .. } = piece;
        let sheet = &part.sheet;
        let refused = |error| judged(error, Some(&sheet.layout.name));
        // To the end of the transaction nothing is applied: the row that is held keeps others off, and this our own. So what is there stays all there is.
        let tombstones = self.seam.tombstones.read().await;
        self.target.batch_execute(&begin(self.claim.number)).await?;
        self.take_hold().await?;
        let Verdict::Without(gone) = tombstones.judge(piece.chunk, sheet.layout.table) else {
            self.target.batch_execute("ROLLBACK").await?;
            self.source.batch_execute("COMMIT").await?;
            return Ok(Written::ReadAgain);
        };
        let there = sheet.there(part, reached, MOST_LEFT_OUT + 1);
        let there = self.target.query(&there, &[]).await.map_err(refused)?;
        if gone.len() + there.len() > MOST_LEFT_OUT {
            self.target.batch_execute("ROLLBACK").await?;
            return Ok(Written::Blocked);
        }
        let gone = gone.into_iter().cloned();
        let without: Vec<KeyText> = gone.chain(there.iter().map(key_text)).collect();
        let read = sheet.read(part, reached, &without);
        match self.pipe(sheet, &read, &sheet.layout.name).await {
            Ok(mut brought) => {
                brought.there = there.len() as u64;
                let commit = async {
                    self.note(piece, brought).await?;
                    self.target.batch_execute("COMMIT").await.map_err(refused)?;
                    drop(tombstones);
                    Ok::<(), FlowError>(())
                };
                // While one side writes its log the other one looks ahead.
                let ahead = async {
                    self.source.batch_execute("COMMIT").await?;
                    let Some(end) = reached else { return Ok(None) };
                    let rest = Part {
                        position: Some(end.clone()),
                        ..(*part).clone()
                    };
                    self.cut(&rest, piece.size.next(brought)).await.map(Some)
                };
                let (committed, ahead) = tokio::join!(commit, ahead);
                committed?;
                Ok(Written::All {
                    brought,
                    next: ahead?,
                })
            }
            // By another value that must be unique.
            Err(error) if is_in_the_way(&error) => {
                self.target.batch_execute("ROLLBACK").await?;
                Ok(Written::Blocked)
            }
            Err(error) => Err(refused(error)),
        }
    }

    /// Staged first, so that what is in the way can be told row by row.
    async fn by_way_of_the_stage(&self, piece: &Piece<'_>) -> Result<Written, FlowError> {
        let (sheet, staged) = self.staged.as_ref().expect("is staged before its chunks");
        let refused = |error| judged(error, Some(&sheet.layout.name));
        self.target.batch_execute(&begin(self.claim.number)).await?;
        let read = sheet.read(piece.part, &piece.reached, &[]);
        let brought = self.pipe(sheet, &read, "pg_temp.trunkline_stage").await;
        let brought = brought.map_err(refused)?;
        self.source.batch_execute("COMMIT").await?;

        for attempt in 1.. {
            self.target.batch_execute("SAVEPOINT staged").await?;
            match self.insert(sheet, staged, piece, brought).await {
                Ok(Inserted::All) => break,
                Ok(Inserted::ReadAgain) => {
                    self.target.batch_execute("ROLLBACK").await?;
                    return Ok(Written::ReadAgain);
                }
                Err(Refusal::Flow(error)) => return Err(error),
                Err(Refusal::Row(error)) if is_in_the_way(&error) && attempt < ATTEMPTS => {
                    // A row is in the way that is older than the chunk. It is not, when as much is applied as the chunk has seen.
                    self.target
                        .batch_execute("ROLLBACK TO SAVEPOINT staged")
                        .await?;
                    let place = mark(&self.source, self.claim.number).await?;
                    self.seam.until_applied(place).await;
                }
                Err(Refusal::Row(error)) => return Err(refused(error)),
            }
        }
        self.target.batch_execute("COMMIT").await.map_err(refused)?;
        Ok(Written::All {
            brought,
            next: None,
        })
    }

    /// What is staged, and how far it goes.
    async fn insert(
        &self,
        sheet: &Sheet,
        staged: &Staged,
        piece: &Piece<'_>,
        brought: Brought,
    ) -> Result<Inserted, Refusal> {
        // To the end of the transaction nothing is applied: the row that is held keeps others off, and this our own.
        let tombstones = self.seam.tombstones.read().await;
        self.take_hold().await?;
        let Verdict::Without(gone) = tombstones.judge(piece.chunk, sheet.layout.table) else {
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
                let key = key_text(&row);
                let why = format!(
                    "row ({}) of {} cannot be stored on {}: another row there has a value that must be unique",
                    key.join(", "),
                    sheet.layout.name,
                    self.claim.shard.0
                );
                tombstones.owe(sheet.layout.table, key, why.into());
            }
        }
        self.note(piece, brought).await?;
        Ok(Inserted::All)
    }

    /// Sees that the driver and the plan are the ones in force, until the end of the transaction.
    async fn take_hold(&self) -> Result<(), FlowError> {
        let claim = &self.claim;
        let parameters: [&(dyn ToSql + Sync); 3] = [&claim.number, &&*claim.source, &claim.token];
        match self.target.query_opt(&self.hold, &parameters).await? {
            Some(_) => Ok(()),
            None => Err(claim.lost()),
        }
    }

    /// Writes down how far a part has come.
    async fn note(&self, piece: &Piece<'_>, brought: Brought) -> Result<(), FlowError> {
        let (claim, part) = (&self.claim, piece.part);
        let count = i64::try_from(brought.rows + brought.there).unwrap_or(i64::MAX);
        let parameters: [&(dyn ToSql + Sync); 7] = [
            &claim.number,
            &&*claim.source,
            &&*part.sheet.layout.name,
            &part.number,
            &piece.reached,
            &count,
            &piece.reached.is_none(),
        ];
        self.target.execute(&self.note, &parameters).await?;
        Ok(())
    }

    /// From the source into a table, unread.
    async fn pipe(
        &self,
        sheet: &Sheet,
        read: &str,
        table: &str,
    ) -> Result<Brought, tokio_postgres::Error> {
        let into = format!(
            "COPY {table} ({}) FROM STDIN (FORMAT {})",
            sheet.columns(),
            sheet.format.name()
        );
        let out = self.source.copy_out(read).await?;
        let into = self.target.copy_in::<_, Bytes>(&*into).await?;
        let (mut out, mut into) = (pin!(out), pin!(into));
        let mut bytes = 0;
        // A row is a message; a message each way for every row would cost more than the rows do.
        let mut together = BytesMut::with_capacity(TOGETHER);
        while let Some(data) = out.next().await {
            let data = data?;
            bytes += data.len() as u64;
            if together.len() + data.len() > TOGETHER {
                into.feed(together.split().freeze()).await?;
                together.reserve(TOGETHER);
            }
            match data.len() > TOGETHER {
                true => into.feed(data).await?,
                false => together.extend_from_slice(&data),
            }
        }
        into.feed(together.freeze()).await?;
        let rows = into.finish().await?;
        Ok(Brought {
            rows,
            bytes,
            there: 0,
        })
    }
}

/// What the transaction sees.
pub(super) async fn snapshot(client: &Client) -> Result<Snapshot, FlowError> {
    let row = client
        .query_one("SELECT pg_catalog.pg_current_snapshot()::text", &[])
        .await?;
    row.get::<_, &str>(0).parse().map_err(FlowError::again)
}

impl Size {
    /// Rows of the next chunk, when this one has just brought so much.
    fn next(self, brought: Brought) -> u64 {
        next_size(self.rows, brought, self.began.elapsed(), self.most_bytes)
    }
}

/// Of a chunk that was to have so many rows.
fn next_size(rows: u64, brought: Brought, took: Duration, most_bytes: u64) -> u64 {
    if brought.rows == 0 {
        return rows;
    }
    let factor = WANTED.as_secs_f64() / took.as_secs_f64().max(0.001);
    let wanted = (rows as f64 * factor.clamp(0.5, 2.0)) as u64;
    let each = (brought.bytes / brought.rows).max(1);
    // Few rows, if they are that large.
    let fit = (most_bytes / each).max(1);
    wanted.clamp(FEWEST_ROWS, MOST_ROWS).min(fit)
}

/// A row of texts.
fn key_text(row: &Row) -> KeyText {
    { 0..row.len() }
        .map(|n| row.get::<_, &str>(n).into())
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_take_their_time_and_no_more() {
        let size = |rows, bytes, took| {
            next_size(
                rows,
                Brought {
                    rows,
                    bytes,
                    there: 0,
                },
                Duration::from_millis(took),
                MOST_BYTES,
            )
        };
        assert_eq!(size(4000, 400_000, 200), 4000);
        assert_eq!(size(4000, 400_000, 10), 8000);
        assert_eq!(size(4000, 400_000, 300), 2666);
        assert_eq!(size(4000, 400_000, 10_000), 2000);
        assert_eq!(size(1000, 100_000, 10_000), 1000);
        assert_eq!(size(100_000, 10_000_000, 10), 100_000);
        // Large rows: 16 MB of them.
        assert_eq!(size(1000, 1024 * 1024 * 1000, 10), 16);
        // As many as the rate allows.
        let brought = Brought {
            rows: 4000,
            bytes: 400_000,
            there: 0,
        };
        assert_eq!(next_size(4000, brought, WANTED, 50_000), 500);
    }
}
