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
