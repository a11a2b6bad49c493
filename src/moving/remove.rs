//! Rows of moving keys, taken away from a shard that does not have the keys any more, in small transactions.

use std::time::{Duration, Instant};

use tokio_postgres::SimpleQueryMessage;

use crate::resharding::job::{MovingKeys, Route, ShardName};

use super::guard;
use super::ledger::{self, OnShard};
use super::pace::Pace;
use super::progress::Tally;
use super::scope::MovedTable;
use super::shards::ShardError;
use crate::resharding::condition::quoted_name;

/// What every transaction of ours that writes moved tables begins with in the log; its content is the plan's number. Who follows skips it.
pub const MOVED_PREFIX: &str = "trunkline/moved";

/// How long a transaction should take: so long may others wait for a row, and so soon is the work given up.
const CHUNK_TIME: Duration = Duration::from_millis(50);
/// Blocks of a table that one transaction looks through.
const FIRST_BLOCKS: u64 = 32;
const MOST_BLOCKS: u64 = 1 << 17;
/// For somebody who has locked a row.
const LOCK_WAIT: Duration = Duration::from_secs(5);

impl OnShard<'_> {
    /// Removes all rows of these keys, and notes in the ledger that there are none. Needs a closed ledger, and that the keys are guarded: so no
    /// row of them can come, and none that belongs here is taken. Can be given up at any time; begun again, it begins at the first row.
    pub async fn remove(
        &self,
        keys: MovingKeys,
        pace: &Pace,
        tally: &Tally,
    ) -> Result<(), ShardError> {
        for table in &self.scope.tables {
            let Some(wanted) = self.wanted(table, keys) else {
                continue;
            };
            // A pass that finds nothing is the proof; one that removed something is followed by another.
            while self.pass(table, keys, &wanted, pace, tally).await? > 0 {}
        }
        let (number, kind) = (self.scope.number, guard::word(keys));
        let cleared = format!(
            "{} UPDATE trunkline.reshard_ledger SET cleared = pg_catalog.array_append(pg_catalog.array_remove(cleared, '{kind}'), '{kind}') WHERE number = {number}",
            self.check(keys)
        );
        self.client
            .batch_execute(&cleared)
            .await
            .map_err(ledger::said)
    }

    /// The table once from its beginning to its end; how many rows were removed.
    async fn pass(
        &self,
        table: &MovedTable,
        keys: MovingKeys,
        wanted: &Wanted,
        pace: &Pace,
        tally: &Tally,
    ) -> Result<u64, ShardError> {
        let mut removed = 0;
        for (relation, blocks) in self.relations(table).await? {
            let (mut from, mut width) = (0, FIRST_BLOCKS);
            while from < blocks {
                let to = from.saturating_add(width).min(blocks);
                pace.admitted().await;
                let begun = Instant::now();
                let mut bytes = 0;
                let text = self.chunk_text(&relation, keys, wanted, from, to);
                for gone in self.chunk(&text).await? {
                    removed += gone.rows;
                    bytes += gone.bytes;
                    let route = wanted.routes.get(gone.way).map(|(route, _)| route);
                    if let Some(route) = route {
                        tally.table(&table.quoted(), route, |note| {
                            note.removed_rows += gone.rows
                        });
                    }
                }
                pace.spent(bytes);
                from = to;
                let fitting = pace.turn().map(|turn| fitting_width(width, bytes, turn));
                let next = next_width(width, begun.elapsed());
                width = fitting.map_or(next, |fitting| fitting.min(next));
            }
        }
        Ok(removed)
    }

    async fn chunk(&self, text: &str) -> Result<Vec<Gone>, ShardError> {
        let messages = self.client.simple_query(text).await.map_err(ledger::said)?;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) if row.len() == 3 => Some(row),
            _ => None,
        });
        rows.map(|row| {
            let number = |column: usize| row.get(column).and_then(|text| text.parse::<u64>().ok());
            let (Some(way), Some(rows), Some(bytes)) = (number(0), number(1), number(2)) else {
                return Err(ShardError::Strange("a count that is no number"));
            };
            let way = usize::try_from(way).unwrap_or(usize::MAX);
            Ok(Gone { way, rows, bytes })
        })
        .collect()
    }

    fn chunk_text(
        &self,
        relation: &str,
        keys: MovingKeys,
        wanted: &Wanted,
        from: u64,
        to: u64,
    ) -> String {
        let mut way = String::new();
        for (place, (_, condition)) in wanted.routes.iter().enumerate() {
            way.push_str(&format!(" WHEN {condition} THEN {place}"));
        }
        format!(
            "SET LOCAL lock_timeout = '{}ms'; SET LOCAL search_path = pg_catalog; SET LOCAL session_replication_role = replica;
             SELECT pg_catalog.pg_logical_emit_message(true, '{MOVED_PREFIX}', '{}'); {}
             WITH gone AS (DELETE FROM ONLY {relation} AS moved WHERE moved.ctid >= '({from},0)'::tid AND moved.ctid < '({to},0)'::tid AND {}
                RETURNING CASE{way} ELSE {} END AS way, pg_catalog.pg_column_size(moved.*) AS bytes)
             SELECT way, pg_catalog.count(*), pg_catalog.sum(bytes) FROM gone GROUP BY way",
            LOCK_WAIT.as_millis(),
            self.scope.number,
            self.check(keys),
            wanted.condition,
            wanted.routes.len(),
        )
    }

    /// Fails unless the ledger is closed and the keys are guarded, and keeps them so until the transaction ends.
    fn check(&self, keys: MovingKeys) -> String {
        ledger::closed_and_guarded(self.scope.number, keys)
    }

    /// What has rows, with its number of blocks: the table or its partitions.
    async fn relations(&self, table: &MovedTable) -> Result<Vec<(String, u64)>, ShardError> {
        let query = "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname),
                pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::int8
            FROM (SELECT r.oid FROM pg_catalog.pg_class r JOIN pg_catalog.pg_namespace s ON s.oid = r.relnamespace
                    WHERE s.nspname = $1 AND r.relname = $2) AS root,
                LATERAL (SELECT root.oid UNION SELECT p.relid FROM pg_catalog.pg_partition_tree(root.oid) p) AS part (oid)
                JOIN pg_catalog.pg_class c ON c.oid = part.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind = 'r' ORDER BY 1";
        let rows = self
            .client
            .query(query, &[&&*table.schema, &&*table.name])
            .await?;
        let relations = rows.iter().map(|row| {
            let blocks: i64 = row.get(1);
            (row.get(0), u64::try_from(blocks).unwrap_or(0))
        });
        Ok(relations.collect())
    }

    /// `None`: the shard has no such keys of the table.
    fn wanted(&self, table: &MovedTable, keys: MovingKeys) -> Option<Wanted> {
        let columns: Vec<String> = table
            .key
            .iter()
            .map(|column| format!("moved.{}", quoted_name(column)))
            .collect();
        let condition = { self.scope }.condition_at(table, self.shard, keys, &columns)?;
        let mut routes: Vec<(Route, String)> = Vec::new();
        for route in self.routes(table) {
            let here = match keys {
                MovingKeys::Leaving => &route.from,
                MovingKeys::Arriving => &route.to,
            };
            if here != self.shard || routes.iter().any(|(known, _)| *known == route) {
                continue;
            }
            if let Some(condition) = self.scope.condition_of_route(table, &route, &columns) {
                routes.push((route, condition));
            }
        }
        Some(Wanted { condition, routes })
    }

    fn routes(&self, table: &MovedTable) -> Vec<Route> {
        let name = |place: usize| ShardName(self.scope.shards[place].clone());
        let moves = &self.scope.distributions[table.distribution]
            .difference
            .moves;
        moves
            .iter()
            .map(|one| Route {
                from: name(one.from.index()),
                to: name(one.to.index()),
            })
            .collect()
    }
}

/// Which rows of a table are to go.
struct Wanted {
    condition: String,
    /// The ways these rows have gone, for people.
    routes: Vec<(Route, String)>,
}

/// Rows that one transaction removed.
struct Gone {
    /// The place of their way in [`Wanted::routes`].
    way: usize,
    rows: u64,
    bytes: u64,
}

/// So many blocks that they take [`CHUNK_TIME`], if the next ones are like the last.
fn next_width(width: u64, spent: Duration) -> u64 {
    let (wanted, spent) = (CHUNK_TIME.as_micros(), spent.as_micros().max(1));
    let fitting = u128::from(width) * wanted / spent;
    let fitting = u64::try_from(fitting).unwrap_or(MOST_BLOCKS);
    fitting.min(width * 2).clamp(1, MOST_BLOCKS)
}

/// No more blocks than have so many bytes, if all are like the last.
fn fitting_width(width: u64, bytes: u64, turn: u64) -> u64 {
    let fitting = u128::from(width) * u128::from(turn) / u128::from(bytes.max(1));
    u64::try_from(fitting).map_or(MOST_BLOCKS, |fitting| fitting.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_take_the_time_they_should() {
        let millis = Duration::from_millis;
        assert_eq!(next_width(32, millis(1)), 64);
        assert_eq!(next_width(64, millis(100)), 32);
        assert_eq!(next_width(64, millis(40)), 80);
        assert_eq!(next_width(1, millis(5_000)), 1);
        assert_eq!(next_width(MOST_BLOCKS, millis(1)), MOST_BLOCKS);
    }

    #[test]
    fn chunks_have_the_bytes_they_may() {
        assert_eq!(fitting_width(32, 0, 1_000), 32_000);
        assert_eq!(fitting_width(32, 500, 1_000), 64);
        assert_eq!(fitting_width(32, 4_000, 1_000), 8);
        assert_eq!(fitting_width(32, 1 << 40, 1_000), 1);
    }
}
