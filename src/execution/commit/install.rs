//! `trunkline.commits`: making it on a shard, and finding out whether a shard can take part in commits of several.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::id::identifier;
use super::readiness::Readiness;
use crate::sharding::ShardId;
use crate::topology::{NodeError, Primary, Topology, TopologyError};

/// How long a shard may take for all of it, connecting included.
const LONGEST: Duration = Duration::from_secs(20);

/// Whoever installs holds this advisory lock, so that several proxies that start at once do not meet half way: "trunklin" in ASCII.
const LOCK: i64 = 0x7472_756e_6b6c_696e;

/// What every shard has, in every database. Can be run again. Ids begin with the time, so rows come at the right edge of the index.
///
/// Clients' own connections insert and read, under whatever role they have; only the one who installs, and whom it is granted to, removes.
pub const STATEMENTS: &str = "CREATE SCHEMA IF NOT EXISTS trunkline;
CREATE TABLE IF NOT EXISTS trunkline.commits (
    id text COLLATE \"C\" PRIMARY KEY,
    outcome text NOT NULL CHECK (outcome IN ('commit', 'abort')),
    shards text[] NOT NULL,
    at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    xid xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id()
);
CREATE INDEX IF NOT EXISTS commits_xid ON trunkline.commits (xid);
GRANT USAGE ON SCHEMA trunkline TO PUBLIC;
GRANT SELECT, INSERT ON trunkline.commits TO PUBLIC;";

/// Whether missing things are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `keeper`: a role that may then remove old rows, too.
    Install { keeper: Option<String> },
    /// Only looks.
    Look,
}

/// Why something could not be had from a shard.
#[derive(Debug, Error)]
pub enum Trouble {
    #[error(transparent)]
    Topology(#[from] TopologyError),
    #[error("{}", NodeError::described(.0))]
    Postgres(#[from] tokio_postgres::Error),
    #[error("no answer within {0:?}")]
    Slow(Duration),
    #[error("there is no shard {0:?} in the configuration")]
    NoShard(Box<str>),
}

/// Finds out how ready a shard is, after installing what is missing where that is wanted.
pub async fn readiness(
    topology: &Topology,
    database: &str,
    shard: ShardId,
    mode: &Mode,
) -> Readiness {
    let looking = async {
        let primary = topology.primary(database, shard).await?;
        let found = look_or_install(&primary, mode).await?;
        primary.release();
        Ok(found)
    };
    let found = tokio::time::timeout(LONGEST, looking);
    match found.await.unwrap_or(Err(Trouble::Slow(LONGEST))) {
        Ok(found) => found,
        Err(trouble) => Readiness::Unknown(trouble.to_string()),
    }
}

/// Likewise, of all shards at the same time, in their order.
pub async fn readiness_of_all(
    topology: &Arc<Topology>,
    database: &str,
    mode: &Mode,
) -> Vec<Readiness> {
    let shards = topology.config().shards.len();
    let asked: Vec<_> = (0..shards)
        .map(|shard| {
            let (topology, database) = (Arc::clone(topology), database.to_owned());
            let shard = ShardId(u16::try_from(shard).expect("shards are counted in u16"));
            let mode = mode.clone();
            tokio::spawn(async move { readiness(&topology, &database, shard, &mode).await })
        })
        .collect();
    let mut found = Vec::new();
    for asked in asked {
        let answer = asked.await;
        found.push(answer.unwrap_or_else(|error| Readiness::Unknown(error.to_string())));
    }
    found
}

/// On a connection that nobody else uses. After an error it may be in a transaction.
async fn look_or_install(client: &Primary, mode: &Mode) -> Result<Readiness, Trouble> {
    let before = look(client).await?;
    let keeper = match mode {
        Mode::Look => return Ok(before),
        Mode::Install { keeper } => keeper.as_ref(),
    };
    // Who owns the table needs no right.
    let keeper = keeper.filter(|keeper| **keeper != client.identity().role);
    let wanted = match before {
        Readiness::NotInstalled(_) => true,
        // That setting takes a restart; the table does not hang on it.
        Readiness::Ready | Readiness::NoPreparedTransactions => keeper.is_some(),
        Readiness::Unknown(_) => false,
    };
    if !wanted {
        return Ok(before);
    }
    match install(client, keeper.map(|role| &**role)).await {
        Ok(()) => Ok(look(client).await?),
        Err(error) => match error.code() {
            // The server said no; what is wrong is for its administrator to see.
            Some(_) => {
                client.batch_execute("ROLLBACK").await?;
                Ok(Readiness::NotInstalled(NodeError::described(&error)))
            }
            None => Err(error.into()),
        },
    }
}

/// All of it or nothing.
async fn install(client: &Client, keeper: Option<&str>) -> Result<(), tokio_postgres::Error> {
    let grant = keeper.map_or_else(String::new, |role| {
        let role = identifier(role);
        format!("GRANT SELECT, INSERT, DELETE ON trunkline.commits TO {role};")
    });
    let mut attempts = 2;
    loop {
        attempts -= 1;
        let made = client
            .batch_execute(&format!(
                "BEGIN; SELECT pg_advisory_xact_lock({LOCK}); {STATEMENTS} {grant} COMMIT"
            ))
            .await;
        match made {
            // Somebody did the same without our lock, by hand.
            Err(error) if attempts > 0 && is_race(&error) => {
                client.batch_execute("ROLLBACK").await?
            }
            made => return made,
        }
    }
}

fn is_race(error: &tokio_postgres::Error) -> bool {
    let races = [
        SqlState::UNIQUE_VIOLATION,
        SqlState::DUPLICATE_TABLE,
        SqlState::DUPLICATE_SCHEMA,
        SqlState::DUPLICATE_OBJECT,
        // "tuple concurrently updated", of two GRANTs.
        SqlState::INTERNAL_ERROR,
    ];
    error.code().is_some_and(|code| races.contains(code))
}

/// The columns as `STATEMENTS` makes them, and the index that ON CONFLICT needs. Nothing here needs a right.
const LOOK: &str = "SELECT current_setting('max_prepared_transactions')::int > 0, pg_is_in_recovery(), n.oid IS NOT NULL, c.oid IS NOT NULL,
        c.relkind = 'r' AND c.relpersistence = 'p' AND NOT c.relrowsecurity AND NOT c.relhasrules AND NOT c.relhastriggers
            AND (SELECT string_agg(concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.atthasdef), ', ' ORDER BY a.attnum)
                 FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
                = 'id text t f, outcome text t f, shards text[] t f, at timestamp with time zone t t, xid xid8 t t'
            AND EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
                        WHERE i.indrelid = c.oid AND i.indisprimary AND i.indisvalid AND i.indimmediate AND i.indnatts = 1 AND a.attname = 'id'),
        has_schema_privilege('public', n.oid, 'USAGE') AND has_table_privilege('public', c.oid, 'INSERT') AND has_table_privilege('public', c.oid, 'SELECT')
    FROM (SELECT 'trunkline' AS name) AS wanted
        LEFT JOIN pg_namespace n ON n.nspname = wanted.name LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = 'commits'";

async fn look(client: &Client) -> Result<Readiness, tokio_postgres::Error> {
    let row = client.query_one(LOOK, &[]).await?;
    let truth = |column: usize| {
        row.try_get::<_, Option<bool>>(column)
            .map(|truth| truth == Some(true))
    };
    let not_installed = |why: &str| Ok(Readiness::NotInstalled(why.to_owned()));
    if truth(1)? {
        let why = "it is a standby";
        Ok(Readiness::Unknown(why.to_owned()))
    } else if !truth(0)? {
        Ok(Readiness::NoPreparedTransactions)
    } else if !truth(2)? {
        not_installed("there is no schema trunkline")
    } else if !truth(3)? {
        not_installed("there is no table trunkline.commits")
    } else if !truth(4)? {
        not_installed("trunkline.commits is not the table that Trunkline makes")
    } else if !truth(5)? {
        not_installed("PUBLIC may not insert into and read trunkline.commits")
    } else {
        Ok(Readiness::Ready)
    }
}

/// What the role of the control plane may do on a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Schemas in the database.
    pub may_create: bool,
    /// Old rows.
    pub may_remove: bool,
    /// Roles whose prepared transactions it cannot finish.
    pub out_of_reach: Vec<String>,
}

/// `roles`: those that prepare transactions. One that does not exist is in reach.
pub async fn rights(client: &Primary, roles: &[&str]) -> Result<Rights, tokio_postgres::Error> {
    // Before 16 a member could always SET ROLE.
    let privilege = match client.identity().server_version {
        160_000.. => "SET",
        _ => "MEMBER",
    };
    let ask = format!(
        "SELECT has_database_privilege(current_database(), 'CREATE'),
            (SELECT has_table_privilege(c.oid, 'DELETE') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = 'trunkline' AND c.relname = 'commits'),
            ARRAY(SELECT rolname::text FROM pg_roles
                  WHERE rolname::text = ANY ($1) AND NOT pg_has_role(session_user, oid, '{privilege}') ORDER BY rolname)"
    );
    let row = client.query_one(&ask, &[&roles]).await?;
    Ok(Rights {
        may_create: row.try_get(0)?,
        may_remove: row.try_get::<_, Option<bool>>(1)? == Some(true),
        out_of_reach: row.try_get(2)?,
    })
}
