//! Guard triggers on a shard: which are missing, made and taken off in transactions that keep nobody waiting.

use std::time::Duration;

use tokio_postgres::{Client, SimpleQueryMessage};

use crate::resharding::job::{MovingKeys, ShardName};

use super::guard::{self, Event, Lock};
use super::ledger::{self, Needs};
use super::scope::{MovedTable, Scope};
use super::shards::ShardError;

/// How long a transaction that changes tables may wait for one: clients that come later wait behind it.
const LOCK_WAIT: Duration = Duration::from_millis(100);
/// A vacuum that nobody waits for goes on for hours; one that is waited for ends after this time. It needs a superuser.
const VACUUM_WAIT: Duration = Duration::from_millis(20);
/// Between tries, at first and at most.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const TRIES: u32 = 20;

/// The tables that can have triggers, with each kind of keys that moves there.
pub(super) fn wanted<'a>(scope: &'a Scope, shard: &ShardName) -> Vec<(&'a MovedTable, MovingKeys)> {
    let mut wanted = Vec::new();
    for table in &scope.tables {
        for keys in [MovingKeys::Leaving, MovingKeys::Arriving] {
            let columns = vec!["NULL".to_owned(); table.key.len()];
            if { scope.condition_at(table, shard, keys, &columns) }.is_some() {
                wanted.push((table, keys));
            }
        }
    }
    wanted
}

/// A query of (schema, name, kind, event, relation as SQL names it, trigger, state): the triggers that should be there, of tables that are, and
/// are not (`absent`), or do not work (`off`). Partitions get theirs from their root, but those for TRUNCATE.
pub(super) fn missing_query(number: u64, wanted: &[(&MovedTable, MovingKeys)]) -> String {
    let rows: Vec<String> = wanted
        .iter()
        .map(|(table, keys)| {
            let (schema, name) = (ledger::text(&table.schema), ledger::text(&table.name));
            format!("({schema}, {name}, '{}')", guard::word(*keys))
        })
        .collect();
    let rows = match rows.is_empty() {
        true => "SELECT NULL::text, NULL::text, NULL::text WHERE false".to_owned(),
        false => format!("VALUES {}", rows.join(", ")),
    };
    format!(
        "WITH wanted (schema_name, table_name, kind) AS ({rows}),
        root AS (SELECT w.*, c.oid, c.relkind FROM wanted w
            JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema_name
            JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.table_name AND c.relkind IN ('r', 'p')),
        member AS (SELECT schema_name, table_name, kind, oid, true AS is_root FROM root
            UNION ALL SELECT schema_name, table_name, kind, p.relid, false FROM root, pg_catalog.pg_partition_tree(root.oid) p
                WHERE root.relkind = 'p' AND p.level > 0),
        trigger AS (SELECT m.*, e.event, 'trunkline_reshard_{number}_' || m.kind || '_' || e.event AS name
            FROM member m, (VALUES ('insert'), ('update'), ('delete'), ('truncate')) AS e (event))
        SELECT t.schema_name, t.table_name, t.kind, t.event, pg_catalog.format('%I.%I', n.nspname, c.relname), t.name,
            CASE WHEN g.oid IS NULL THEN 'absent' ELSE 'off' END
        FROM trigger t JOIN pg_catalog.pg_class c ON c.oid = t.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            LEFT JOIN pg_catalog.pg_trigger g ON g.tgrelid = t.oid AND g.tgname = t.name
        WHERE CASE WHEN g.oid IS NULL THEN t.is_root OR t.event = 'truncate' ELSE g.tgenabled NOT IN ('O', 'A') END"
    )
}

/// Makes the triggers that are missing; all of one table in one transaction, in which the ledger is seen to be open.
pub(super) async fn make(
    client: &Client,
    scope: &Scope,
    shard: &ShardName,
) -> Result<(), ShardError> {
    let wanted = wanted(scope, shard);
    let query = missing_query(scope.number, &wanted);
    // What somebody else made meanwhile is found the next time.
    for _ in 0..3 {
        let mut statements: Vec<(&MovedTable, String)> = Vec::new();
        for message in client.simple_query(&query).await? {
            let SimpleQueryMessage::Row(row) = message else {
                continue;
            };
            let text = |column: usize| row.get(column).unwrap_or_default();
            let keys = ledger::keys_of(text(2))?;
            let found = wanted.iter().find(|(table, kind)| {
                *table.schema == *text(0) && *table.name == *text(1) && *kind == keys
            });
            let Some((table, _)) = found else { continue };
            let event = Event::ALL
                .into_iter()
                .find(|event| event.name() == text(3))
                .ok_or(ShardError::Strange("a trigger for another event"))?;
            let (relation, trigger) = (text(4), text(5));
            let statement = match text(6) {
                "off" => guard::enable(relation, trigger),
                _ => guard::create(scope, table, shard, keys, event, relation).unwrap_or_default(),
            };
            match statements.last_mut() {
                Some((last, statements)) if last == table => statements.push_str(&statement),
                _ => statements.push((table, statement)),
            }
        }
        if statements.is_empty() {
            return Ok(());
        }
        for (_, statements) in statements {
            let check = ledger::check(scope.number, None, Needs::Open);
            let text = format!("{} {check} {statements}", Lock::Orders(scope.number).take());
            match patiently(client, &text).await {
                // Two made it at once.
                Err(error) if error.sqlstate() == Some("42710") => {}
                done => done?,
            }
        }
    }
    Err(ShardError::Strange(
        "guard triggers that were made are not there",
    ))
}

/// Takes the triggers of these names off all tables, one after the other.
pub(super) async fn remove(client: &Client, names: &[String]) -> Result<(), ShardError> {
    let query = "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), pg_catalog.array_agg(g.tgname::text)
        FROM pg_catalog.pg_trigger g JOIN pg_catalog.pg_class c ON c.oid = g.tgrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE g.tgname::text = ANY ($1) AND g.tgparentid = 0 GROUP BY 1";
    for row in client.query(query, &[&names]).await? {
        let relation: &str = row.get(0);
        let triggers: Vec<String> = row.get(1);
        let statements: Vec<String> = triggers
            .iter()
            .map(|trigger| guard::drop(relation, trigger))
            .collect();
        match patiently(client, &statements.join(" ")).await {
            // The table was dropped meanwhile.
            Err(error) if error.sqlstate() == Some("42P01") => {}
            done => done?,
        }
    }
    Ok(())
}

/// Runs statements as one transaction that waits briefly for each lock, and again when it could not have one.
pub(super) async fn patiently(client: &Client, statements: &str) -> Result<(), ShardError> {
    let text = format!(
        "SET LOCAL lock_timeout = '{}ms'; SET LOCAL search_path = pg_catalog;
         SELECT CASE WHEN (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)
            THEN pg_catalog.set_config('deadlock_timeout', '{}ms', true) END;
         {statements}",
        LOCK_WAIT.as_millis(),
        VACUUM_WAIT.as_millis()
    );
    let mut pause = PAUSE;
    let mut tries = 1;
    loop {
        match client.batch_execute(&text).await.map_err(ledger::said) {
            // No lock in time, or none because of a deadlock.
            Err(error) if tries < TRIES && matches!(error.sqlstate(), Some("55P03" | "40P01")) => {
                tries += 1;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            done => return done,
        }
    }
}
