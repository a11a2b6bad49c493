//! What shards are told at a commit. Nothing in it depends on the client's search path or settings.

use std::time::Duration;

use super::id::{Gid, TransactionId, quoted};

/// The transaction's row. It is visible as soon as the shard has committed.
fn row(id: TransactionId, shards: &[&str]) -> String {
    let shards: Vec<String> = shards.iter().map(|shard| quoted(shard)).collect();
    format!(
        "INSERT INTO trunkline.commits (id, outcome, shards) VALUES ('{id}', 'commit', ARRAY[{}]::pg_catalog.text[])",
        shards.join(", ")
    )
}

/// For the decision shard: all but the COMMIT. Without its COMMIT for so long the server ends the transaction, and others may then abort it.
///
/// A commit that a crash could undo would be no decision, so `synchronous_commit` is not left off.
pub fn ready(id: TransactionId, shards: &[&str], prepare_timeout: Duration) -> String {
    format!(
        "{}; SELECT pg_catalog.set_config('synchronous_commit', \
         CASE WHEN pg_catalog.current_setting('synchronous_commit') OPERATOR(pg_catalog.=) 'off'::pg_catalog.text THEN 'local' \
         ELSE pg_catalog.current_setting('synchronous_commit') END, true), \
         pg_catalog.set_config('idle_in_transaction_session_timeout', '{}', true)",
        row(id, shards),
        prepare_timeout.as_millis(),
    )
}

/// For the other shards that were written on.
pub fn prepare(gid: &Gid, shards: &[&str]) -> String {
    let name = quoted(&gid.to_string());
    format!("{}; PREPARE TRANSACTION {name}", row(gid.id, shards))
}

pub fn commit_prepared(gid: &Gid) -> String {
    format!("COMMIT PREPARED {}", quoted(&gid.to_string()))
}

pub fn rollback_prepared(gid: &Gid) -> String {
    format!("ROLLBACK PREPARED {}", quoted(&gid.to_string()))
}

/// Which transactions are over.
pub const FIRST_LOOK: &str = "SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text";

/// Names of what is prepared: one column.
pub const PREPARED: &str = "SELECT gid FROM pg_catalog.pg_prepared_xacts \
    WHERE pg_catalog.starts_with(gid, 'trunkline:') AND database OPERATOR(pg_catalog.=) pg_catalog.current_database()";

/// Commits that were not over in `snapshot` and are in that of this transaction, each with each of its shards: two columns.
pub fn committed_since(snapshot: &str) -> String {
    let snapshot = format!("{}::pg_catalog.pg_snapshot", quoted(snapshot));
    format!(
        "SELECT c.id, s.name FROM trunkline.commits AS c, pg_catalog.unnest(c.shards) AS s (name) \
         WHERE c.outcome OPERATOR(pg_catalog.=) 'commit'::pg_catalog.text AND c.xid OPERATOR(pg_catalog.>=) pg_catalog.pg_snapshot_xmin({snapshot}) \
         AND NOT pg_catalog.pg_visible_in_snapshot(c.xid, {snapshot})"
    )
}

/// Which of these have committed in the snapshot of this transaction.
pub fn among_committed<'a>(ids: impl Iterator<Item = &'a str>) -> String {
    let ids: Vec<String> = ids.map(quoted).collect();
    format!(
        "SELECT id FROM trunkline.commits WHERE outcome OPERATOR(pg_catalog.=) 'commit'::pg_catalog.text \
         AND id OPERATOR(pg_catalog.=) ANY (ARRAY[{}]::pg_catalog.text[])",
        ids.join(", ")
    )
}
