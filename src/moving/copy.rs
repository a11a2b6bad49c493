//! The rows of one way, in chunks, several at a time.
//!
//! What is there is on the receiving shard (`trunkline.reshard_chunks`): for each part of each table how far its rows have been inserted, written in the
//! transactions that insert them. Large tables have several parts, cut where samples say.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use crate::resharding::condition::quoted_name;
use crate::resharding::job::Route;
use crate::store::Token;

use super::apply::{difference, judged, key_schemas};
use super::chunk::{Brought, Worker, snapshot};
use super::claim::{Claim, FlowError};
use super::ledger::mark;
use super::pace::Pace;
use super::place::Layout;
use super::progress::Tally;
use super::scope::Scope;
use super::seam::Seam;
use super::shards::{Connection, Shards};
use super::sheet::{Format, Obstacles, Part, Sheet, texts};
use super::table::{self, Shape};
use super::tombstones::Rows;

/// Rows of a part, about.
const PART_ROWS: f64 = 1_000_000.0;
const MOST_PARTS: usize = 16;
/// Rows of a sample, about.
const SAMPLE: f64 = 20_000.0;
/// How often deletions are forgotten that no chunk needs any more.
const SWEEP: Duration = Duration::from_millis(500);

/// What is copied.
#[derive(Clone, Debug)]
pub struct CopyWay {
    pub scope: Arc<Scope>,
    pub route: Route,
    /// Of the driver's lease.
    pub token: Token,
    /// Chunks at a time.
    pub workers: usize,
    /// The one that the follower of `route.from` has for `route.to`. It must be followed meanwhile: the end of the copy waits for it.
    pub seam: Arc<Seam>,
    /// Shared by all ways from the source.
    pub pace: Arc<Pace>,
}

/// Copies what is not there yet, and notes `copied` in the stream's row when all is there and applied so far that the receiving shard has the rows of
/// one moment. To drop the future ends it, anywhere.
pub async fn copy(task: CopyWay, shards: Shards, tally: Arc<Tally>) -> Result<(), FlowError> {
    let source = shards.open(&task.route.from).await?;
    let target = shards.open(&task.route.to).await?;
    let (from, to) = (&task.route.from, &task.route.to);
    let claim = Claim::new(task.scope.number, from, to, task.token);
    if claim.take(&target).await?.copied {
        return Ok(());
    }
    // In this order: what is deleted from the floor on is noted.
    let near = snapshot(&source).await?;
    task.seam.tombstones.write().await.begin(&near);
    let floor = snapshot(&source).await?;
    task.seam.tombstones.write().await.set_floor(&floor);

    let desk = Desk {
        task: &task,
        claim: &claim,
        source: &source,
        target: &target,
        tally: &tally,
    };
    let parts = desk.parts().await?;
    let workers = task.workers.clamp(1, parts.len().max(1));
    let parts = Arc::new(Mutex::new(VecDeque::from(parts)));
    let mut tasks = JoinSet::new();
    for _ in 0..workers {
        let worker = Worker::new(
            claim.clone(),
            Arc::clone(&task.seam),
            Arc::clone(&task.pace),
            shards.open(from).await?,
            shards.open(to).await?,
        );
        let worker = worker.await?;
        let (parts, route) = (Arc::clone(&parts), task.route.clone());
        tasks.spawn(work(worker, parts, Arc::clone(&tally), route));
    }
    let mut sweep = interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            ended = tasks.join_next() => match ended {
                None => break,
                Some(Ok(ended)) => ended?,
                Some(Err(error)) => return Err(FlowError::again(error)),
            },
            _ = sweep.tick() => {
                let newest = snapshot(&source).await?;
                // Who copies is not held up for nothing.
                let idle = {
                    let tombstones = task.seam.tombstones.read().await;
                    tombstones.is_near(&newest);
                    tombstones.is_empty()
                };
                if !idle {
                    task.seam.tombstones.write().await.forget(&newest);
                }
            }
        }
    }
    for table in &task.scope.tables {
        tally.table(&table.quoted(), &task.route, |table| table.copied = true);
    }
    desk.finish().await
}

async fn work(
    mut worker: Worker,
    parts: Arc<Mutex<VecDeque<Part>>>,
    tally: Arc<Tally>,
    route: Route,
) -> Result<(), FlowError> {
    loop {
        let part = { parts.lock() }
            .expect("nothing panics while it holds the lock")
            .pop_front();
        let Some(part) = part else {
            return Ok(());
        };
        let table = part.sheet.layout.name.clone();
        let tell = |brought: Brought| {
            tally.table(&table, &route, |table| {
                table.copied_rows += brought.rows + brought.there;
                table.copied_bytes += brought.bytes;
            });
        };
        worker.copy(part, tell).await?;
    }
}

/// What is asked and said beside the chunks.
struct Desk<'a> {
    task: &'a CopyWay,
    claim: &'a Claim,
    source: &'a Connection,
    target: &'a Connection,
    tally: &'a Tally,
}

const KNOWN: &str = "SELECT part, position, until, row_count, done FROM trunkline.reshard_chunks
    WHERE number = $1 AND source = $2 AND relation = $3 ORDER BY part";
/// `ON CONFLICT`: by somebody who was about to be ended. The first stands.
const PART: &str = "INSERT INTO trunkline.reshard_chunks (number, source, relation, part, position, until, row_count)
    VALUES ($1, $2, $3, $4, $5, $6, 0) ON CONFLICT DO NOTHING";
/// Whether anything beside its key can be in the way of a row.
const OBSTACLES: &str =
    "SELECT count(*), count(*) FILTER (WHERE NOT indimmediate) FROM pg_catalog.pg_index
    WHERE indrelid = $1 AND (indisunique OR indisexclusion)";
const HOLD: &str =
    "SELECT FROM trunkline.reshard_streams s JOIN trunkline.reshard_ledger l ON l.number = s.number
    WHERE s.number = $1 AND s.source = $2 AND s.driver = $3 AND NOT l.closed FOR SHARE";
/// Values that mean the same on every server, in binary: of base types that Postgres brings, but for those that are numbers of objects; and enums.
const BINARY: &str = "WITH RECURSIVE typed AS (
      SELECT t.* FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
      WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
      UNION SELECT t.* FROM typed d JOIN pg_catalog.pg_type t ON d.typtype = 'd' AND t.oid = d.typbasetype)
    SELECT coalesce(bool_and(typtype IN ('d', 'e') OR oid < 10000 AND typtype IN ('b', 'r', 'm') AND typsend <> 0 AND typreceive <> 0
      AND typname !~ '^_?reg'), false) FROM typed";
/// Rows of a table; of one that was never analyzed, by its size.
const ESTIMATE: &str = "SELECT coalesce(sum(CASE WHEN c.reltuples > 0 THEN c.reltuples ELSE pg_catalog.pg_relation_size(c.oid) / 100.0 END), 0)::float8
    FROM pg_catalog.pg_class c WHERE c.oid = $1 AND c.relkind = 'r'
      OR c.oid IN (SELECT p.relid FROM pg_catalog.pg_partition_tree($1::oid) p WHERE p.isleaf)";
const COPIED: &str = "UPDATE trunkline.reshard_streams SET copied = true WHERE number = $1 AND source = $2 AND driver = $3
    AND EXISTS (SELECT FROM trunkline.reshard_ledger WHERE number = $1 AND NOT closed FOR SHARE)";

impl Desk<'_> {
    /// What is not there yet.
    async fn parts(&self) -> Result<Vec<Part>, FlowError> {
        let versions = (major(self.source).await?, major(self.target).await?);
        let mut parts = Vec::new();
        for (place, table) in self.task.scope.tables.iter().enumerate() {
            let columns: Vec<_> = table.key.iter().map(|name| quoted_name(name)).collect();
            let condition = self
                .task
                .scope
                .condition_of_route(table, &self.task.route, &columns);
            let Some(condition) = condition else { continue };
            let missing =
                |shard: &str| FlowError::trouble(format!("{} is not on {shard}", table.quoted()));
            let (from, to) = (&self.task.route.from.0, &self.task.route.to.0);
            let shape = table::read(self.source, &table.schema, &table.name).await?;
            let shape = shape.ok_or_else(|| missing(from))?;
            let there = table::read(self.target, &table.schema, &table.name).await?;
            let there = there.ok_or_else(|| missing(to))?;
            let layout =
                Layout::of_shape(&self.task.scope, place, &shape).map_err(FlowError::trouble)?;
            if let Some(how) = difference(&layout, &there) {
                return Err(FlowError::trouble(format!(
                    "{} on {to} is not as on {from}: {how}",
                    layout.name
                )));
            }
            let row = self.target.query_one(OBSTACLES, &[&there.oid]).await?;
            let obstacles = match (row.get::<_, i64>(0), row.get::<_, i64>(1)) {
                (0 | 1, _) if !layout.key_may_repeat() => Obstacles::Nothing,
                (_, 0) => Obstacles::Immediate,
                _ => Obstacles::Deferrable,
            };
            let binary = versions.0 == versions.1
                && self.source.query_one(BINARY, &[&shape.oid]).await?.get(0)
                && self.target.query_one(BINARY, &[&there.oid]).await?.get(0);
            let sheet = Arc::new(Sheet {
                search_path: search_path(key_schemas(self.source, &layout).await?),
                obstacles,
                layout,
                condition,
                format: match binary {
                    true => Format::Binary,
                    false => Format::Text,
                },
            });
            parts.extend(self.parts_of(&sheet, &shape).await?);
        }
        Ok(parts)
    }

    async fn parts_of(&self, sheet: &Arc<Sheet>, shape: &Shape) -> Result<Vec<Part>, FlowError> {
        let rows: f64 = self.source.query_one(ESTIMATE, &[&shape.oid]).await?.get(0);
        let share = self.share(sheet, rows).await?;
        let (claim, name) = (self.claim, &sheet.layout.name);
        let mut known = self.known(name).await?;
        if known.is_empty() {
            let bounds = self.bounds(sheet, rows).await?;
            self.target.batch_execute("BEGIN").await?;
            let held: [&(dyn ToSql + Sync); 3] = [&claim.number, &&*claim.source, &claim.token];
            if self.target.query_opt(HOLD, &held).await?.is_none() {
                return Err(claim.lost());
            }
            for part in 0..=bounds.len() {
                let position = part.checked_sub(1).map(|before| &bounds[before]);
                let until = bounds.get(part);
                let number = i32::try_from(part).unwrap_or(i32::MAX);
                self.target
                    .execute(
                        PART,
                        &[
                            &claim.number,
                            &&*claim.source,
                            &&**name,
                            &number,
                            &position,
                            &until,
                        ],
                    )
                    .await?;
            }
            self.target.batch_execute("COMMIT").await?;
            known = self.known(name).await?;
        }
        let (mut parts, mut copied) = (Vec::new(), 0);
        for row in known {
            copied += row.get::<_, i64>(3).cast_unsigned();
            if !row.get::<_, bool>(4) {
                parts.push(Part {
                    sheet: Arc::clone(sheet),
                    number: row.get(0),
                    position: row.get(1),
                    until: row.get(2),
                });
            }
        }
        self.tally.table(name, &self.task.route, |table| {
            table.copied_rows = copied;
            table.estimated_rows = Some((rows * share) as u64);
        });
        Ok(parts)
    }

    async fn known(&self, name: &str) -> Result<Vec<tokio_postgres::Row>, FlowError> {
        let claim = self.claim;
        let parameters: [&(dyn ToSql + Sync); 3] = [&claim.number, &&*claim.source, &name];
        Ok(self.target.query(KNOWN, &parameters).await?)
    }

    /// The part of a table's rows that goes this way, by a sample.
    async fn share(&self, sheet: &Sheet, rows: f64) -> Result<f64, FlowError> {
        let text = format!(
            "SELECT count(*) FILTER (WHERE {})::float8, count(*)::float8 FROM {} TABLESAMPLE SYSTEM ({})",
            sheet.condition,
            sheet.layout.name,
            percent(rows)
        );
        let row = self.source.query_one(&text, &[]).await;
        let row = row.map_err(|error| judged(error, Some(&sheet.layout.name)))?;
        Ok(row.get::<_, f64>(0) / row.get::<_, f64>(1).max(1.0))
    }

    /// Keys at which a large table is cut, ascending.
    async fn bounds(&self, sheet: &Sheet, rows: f64) -> Result<Vec<Vec<String>>, FlowError> {
        let parts = ((rows / PART_ROWS) as usize).min(MOST_PARTS);
        if parts < 2 {
            return Ok(Vec::new());
        }
        let layout = &sheet.layout;
        let names: Vec<_> = { layout.key.iter() }
            .map(|place| quoted_name(&layout.columns[*place].name))
            .collect();
        let names = names.join(", ");
        let text = format!(
            "WITH sample AS (SELECT {names}, ntile({parts}) OVER w AS trunkline_part, row_number() OVER w AS trunkline_place
               FROM {} TABLESAMPLE SYSTEM ({}) WHERE {} WINDOW w AS (ORDER BY {names}))
             SELECT {} FROM sample AS s WHERE trunkline_part < {parts} AND trunkline_place IN (SELECT max(trunkline_place) FROM sample GROUP BY trunkline_part)
             ORDER BY trunkline_place",
            layout.name,
            percent(rows),
            sheet.condition,
            texts(layout, &layout.key, "s"),
        );
        let found = self.source.query(&text, &[]).await;
        let found = found.map_err(|error| judged(error, Some(&layout.name)))?;
        let key = |row: &tokio_postgres::Row| (0..row.len()).map(|n| row.get(n)).collect();
        Ok(found.iter().map(key).collect())
    }

    /// All chunks are there. When everything is applied that they may have seen, the rows are those of one moment.
    async fn finish(&self) -> Result<(), FlowError> {
        let place = mark(self.source, self.claim.number).await?;
        self.task.seam.until_applied(place).await;
        let mut tombstones = self.task.seam.tombstones.write().await;
        if let Some(why) = tombstones.owed() {
            return Err(FlowError::trouble(why));
        }
        let claim = self.claim;
        let parameters: [&(dyn ToSql + Sync); 3] = [&claim.number, &&*claim.source, &claim.token];
        if self.target.execute(COPIED, &parameters).await? != 1 {
            return Err(claim.lost());
        }
        tombstones.rows = Rows::Exact;
        tombstones.end();
        Ok(())
    }
}

fn search_path(schemas: Vec<String>) -> String {
    let mut path = "SET search_path = pg_catalog".to_owned();
    for schema in schemas {
        path.push_str(", ");
        path.push_str(&schema);
    }
    path
}

/// Of a table of so many rows, what a sample takes.
fn percent(rows: f64) -> f64 {
    (SAMPLE / rows.max(1.0) * 100.0).clamp(0.001, 100.0)
}

async fn major(client: &Client) -> Result<i32, FlowError> {
    let row = client
        .query_one(
            "SELECT pg_catalog.current_setting('server_version_num')::int4 / 10000",
            &[],
        )
        .await?;
    Ok(row.get(0))
}
