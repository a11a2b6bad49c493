//! What one shard is asked and told about transactions of ours: one function a statement. None of them decides anything.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, Row};

use super::Outcome;
use super::id::{TransactionId, identifier, quoted};
use crate::topology::Primary;

/// How long an attempt to abort waits for an owner who may still decide. Long against the time between its two statements would hold up others.
const OWNERS_TURN: &str = "50ms";

/// The same for all connections that are lent, and put back after [`OWNERS_TURN`].
const LOCK_TIMEOUT: &str = "5s";

/// A transaction that a shard has prepared.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    pub gid: String,
    /// `None`: that role is gone.
    pub owner: Option<String>,
    /// By the server's clock.
    pub at: SystemTime,
    pub age: Duration,
}

/// Those that bear a name of ours, the oldest first.
pub async fn prepared(client: &Client) -> Result<Vec<Prepared>, Error> {
    let query = "SELECT gid, owner::text, prepared, extract(epoch FROM clock_timestamp() - prepared)::float8 FROM pg_prepared_xacts
        WHERE gid LIKE 'trunkline:%' AND database = current_database() ORDER BY prepared, gid";
    let rows = client.query_typed(query, &[]).await?;
    rows.iter().map(read_prepared).collect()
}

/// One of this name.
pub async fn find_prepared(client: &Client, gid: &str) -> Result<Option<Prepared>, Error> {
    let query = "SELECT gid, owner::text, prepared, extract(epoch FROM clock_timestamp() - prepared)::float8 FROM pg_prepared_xacts
        WHERE gid = $1 AND database = current_database()";
    let row = client.query_opt(query, &[&gid]).await?;
    row.as_ref().map(read_prepared).transpose()
}

fn read_prepared(row: &Row) -> Result<Prepared, Error> {
    Ok(Prepared {
        gid: row.try_get(0)?,
        owner: row.try_get(1)?,
        at: row.try_get(2)?,
        // A clock that was set back may make it negative.
        age: Duration::try_from_secs_f64(row.try_get(3)?).unwrap_or_default(),
    })
}

/// What `trunkline.commits` has of these.
pub async fn outcomes(
    client: &Client,
    ids: &[TransactionId],
) -> Result<HashMap<TransactionId, Outcome>, Error> {
    let texts: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let query = "SELECT id, outcome FROM trunkline.commits WHERE id = ANY ($1)";
    let mut found = HashMap::new();
    for row in client.query(query, &[&texts]).await? {
        // A text that is no id was not asked for.
        let Ok(id) = TransactionId::parse(row.try_get(0)?) else {
            continue;
        };
        let outcome = match row.try_get::<_, &str>(1)? {
            "commit" => Outcome::Committed,
            // The table's check allows nothing else.
            _ => Outcome::Aborted,
        };
        found.insert(id, outcome);
    }
    Ok(found)
}

/// What came of the attempt to abort a transaction on its decision shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    Aborted,
    /// There is a row by now; it says what happened.
    Decided,
    /// Its owner's transaction on the decision shard is still open.
    Open,
}

/// Puts down that a transaction is aborted, unless its owner has decided or still may. An uncommitted row of the owner's makes the insertion wait.
pub async fn try_abort(client: &Client, id: TransactionId) -> Result<Attempt, Error> {
    client
        .batch_execute(&format!("SET lock_timeout = '{OWNERS_TURN}'"))
        .await?;
    let insert = "INSERT INTO trunkline.commits (id, outcome, shards) VALUES ($1, 'abort', '{}') ON CONFLICT (id) DO NOTHING";
    let inserted = client.execute(insert, &[&id.to_string()]).await;
    client
        .batch_execute(&format!("SET lock_timeout = '{LOCK_TIMEOUT}'"))
        .await?;
    match inserted {
        Ok(0) => Ok(Attempt::Decided),
        Ok(_) => Ok(Attempt::Aborted),
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => Ok(Attempt::Open),
        Err(error) => Err(error),
    }
}

/// Who has finished a prepared transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finished {
    Now,
    /// Somebody else was faster.
    Before,
    /// Nobody yet; somebody else is at it.
    Soon,
}

/// COMMIT PREPARED or ROLLBACK PREPARED. That takes the role that prepared, or a superuser. After an error the connection may still have that role.
pub async fn finish(
    client: &Primary,
    prepared: &Prepared,
    outcome: Outcome,
) -> Result<Finished, Error> {
    let identity = client.identity();
    let other = prepared
        .owner
        .as_ref()
        .filter(|owner| !identity.superuser && **owner != identity.role);
    if let Some(owner) = other {
        client
            .batch_execute(&format!("SET ROLE {}", identifier(owner)))
            .await?;
    }
    let word = match outcome {
        Outcome::Committed => "COMMIT",
        Outcome::Aborted => "ROLLBACK",
    };
    let said = client
        .batch_execute(&format!("{word} PREPARED {}", quoted(&prepared.gid)))
        .await;
    if other.is_some() {
        client.batch_execute("RESET ROLE").await?;
    }
    match said {
        Ok(()) => Ok(Finished::Now),
        Err(error) => match error.code() {
            Some(code) if *code == SqlState::UNDEFINED_OBJECT => Ok(Finished::Before),
            // "Prepared transaction with identifier ... is busy."
            Some(code) if *code == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE => Ok(Finished::Soon),
            _ => Err(error),
        },
    }
}
