//! What each shard knows of plans, in its own database (schema `trunkline`), and the orders that change it.
//!
//! An order is one transaction, sent as one text: the server does all of it or nothing, even when whoever sent it is gone. Orders to one shard
//! follow each other (an advisory lock), so what an order has seen of the ledger stays true to its end. An order that is late finds the ledger
//! closed or a greater term, and is refused ([`ShardError::Stale`]).
//!
//! Who writes moved rows in a transaction of its own (chunks, changes, removal) must read the ledger's row with FOR SHARE there: closing it and
//! taking a guard away then wait for that transaction, and what comes later sees it.

use std::fmt::Display;
use std::time::Duration;

use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::resharding::hashes::FUNCTIONS;
use crate::resharding::job::{Lsn, MovingKeys, ShardName, Term};
use crate::wire::replication::Lsn as Place;

use super::guard::{self, Lock};
use super::scope::Scope;
use super::shards::ShardError;
use super::triggers;

/// Made where a plan begins. Can be run again.
///
/// `reshard_ledger` is written by orders only (open, guard, fence, unguard, close, ...), never while rows are copied or followed: the guard
/// triggers read it. `ready`: all triggers have been made. `cleared`: kinds of moving keys that no rows are left of, since the ledger was closed.
/// `reshard_streams` has, on the receiving shard, how far each source has come; `driver` is the token of the lease of the proxy that may
/// write. `reshard_chunks` has for each part of a table's keys (behind `position` as it began, up to
/// and with `until`) how far its rows are there.
pub const STATEMENTS: &str = "CREATE SCHEMA IF NOT EXISTS trunkline;
CREATE TABLE IF NOT EXISTS trunkline.reshard_ledger (
    number bigint PRIMARY KEY,
    name text NOT NULL,
    term bigint NOT NULL,
    ready boolean NOT NULL DEFAULT false,
    closed boolean NOT NULL DEFAULT false,
    guarded text[] NOT NULL DEFAULT '{}',
    fence_term bigint,
    fence_lsn pg_lsn,
    indexed boolean NOT NULL DEFAULT false,
    cleared text[] NOT NULL DEFAULT '{}'
);
CREATE TABLE IF NOT EXISTS trunkline.reshard_streams (
    number bigint NOT NULL,
    source text NOT NULL,
    driver bigint NOT NULL,
    applied pg_lsn NOT NULL DEFAULT '0/0',
    copied boolean NOT NULL DEFAULT false,
    fence_applied bigint,
    verified_round bigint,
    differences bigint,
    PRIMARY KEY (number, source)
);
CREATE TABLE IF NOT EXISTS trunkline.reshard_chunks (
    number bigint NOT NULL,
    source text NOT NULL,
    relation text NOT NULL,
    part integer NOT NULL,
    position text[],
    until text[],
    row_count bigint NOT NULL,
    done boolean NOT NULL DEFAULT false,
    PRIMARY KEY (number, source, relation, part)
);";

/// SQLSTATE of an order that is refused here.
const STALE: &str = "TRK01";
/// How long an order other than a fence waits: for transactions that hold the ledger's row, and for writers of keys that nobody should write.
const ORDER_WAIT: Duration = Duration::from_secs(1);
/// What a fence's message in the log begins with; its content is `number:term`.
pub const FENCE_PREFIX: &str = "trunkline/fence";
/// The same of a [`mark`]; its content is `number`.
pub const MARK_PREFIX: &str = "trunkline/mark";

/// A place in the log behind every change that could be seen so far. It is in the log itself, in a transaction of its own, so that it is soon on disk and there
/// is something to come after those changes, however quiet the shard. Whoever follows applies at once what is before it.
pub async fn mark(client: &Client, number: impl Display) -> Result<Place, tokio_postgres::Error> {
    let text = "SELECT pg_catalog.pg_logical_emit_message(true, $1, $2)";
    let row = client
        .query_one(text, &[&MARK_PREFIX, &number.to_string()])
        .await?;
    Ok(Place(row.get::<_, PgLsn>(0).into()))
}

/// What an order finds the ledger to be, or is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    Open,
    /// Open or closed.
    Ledger,
    Nothing,
}

/// A plan on one of its shards. All of this can be done twice and late, and given up at any time. The connection is in no transaction.
#[derive(Clone, Copy)]
pub struct OnShard<'a> {
    /// To the shard's primary.
    pub client: &'a Client,
    pub scope: &'a Scope,
    pub shard: &'a ShardName,
}

impl OnShard<'_> {
    /// Makes the ledger and all guard triggers on the tables that are there. It is seen to be open when the last of them is made.
    /// While a transaction that wrote to a moved table is open its trigger cannot be made: tries for some seconds, and is then to be asked again.
    pub async fn open(&self, term: Term) -> Result<(), ShardError> {
        self.make_schema().await?;
        let (number, name) = (self.scope.number, text(&self.scope.name));
        let insert = format!(
            "INSERT INTO trunkline.reshard_ledger (number, name, term) VALUES ({number}, {name}, {}) ON CONFLICT DO NOTHING;",
            term.0
        );
        self.order(Needs::Nothing, Some(term), &insert).await?;
        triggers::make(self.client, self.scope, self.shard).await?;
        let ready =
            format!("UPDATE trunkline.reshard_ledger SET ready = true WHERE number = {number};");
        self.order(Needs::Open, None, &ready).await
    }

    /// Refuses writes to these keys from now on, and waits until nobody has an open transaction that wrote them. Needs an open ledger.
    pub async fn guard(&self, keys: MovingKeys, term: Term) -> Result<(), ShardError> {
        triggers::make(self.client, self.scope, self.shard).await?;
        let (number, kind) = (self.scope.number, guard::word(keys));
        let lock = Lock::Keys(number, keys).take();
        let update = format!(
            "{lock} UPDATE trunkline.reshard_ledger SET term = {}, guarded = {} WHERE number = {number};",
            term.0,
            with(kind)
        );
        self.order(Needs::Open, Some(term), &update).await
    }

    /// Accepts writes to these keys again. Of a closed ledger's shard the triggers are taken off, too.
    pub async fn unguard(&self, keys: MovingKeys, term: Term) -> Result<(), ShardError> {
        let (number, kind) = (self.scope.number, guard::word(keys));
        let update = format!(
            "UPDATE trunkline.reshard_ledger SET term = {}, guarded = array_remove(guarded, '{kind}') WHERE number = {number} RETURNING closed;",
            term.0
        );
        let text = self.order_text(ORDER_WAIT, Needs::Ledger, Some(term), &update);
        let closed = last_value(self.client, &text).await?;
        if closed.as_deref() == Some("t") {
            triggers::remove(self.client, &guard::names(number, keys)).await?;
        }
        Ok(())
    }

    /// In one transaction: waits until no transaction that wrote such keys is open (for at most `lock_timeout`, SQLSTATE 55P03), refuses further
    /// ones, and writes a message into the log behind all of them. Returns its place. Needs an open ledger.
    pub async fn fence(
        &self,
        keys: MovingKeys,
        term: Term,
        lock_timeout: Duration,
    ) -> Result<Lsn, ShardError> {
        triggers::make(self.client, self.scope, self.shard).await?;
        let (number, kind, term_number) = (self.scope.number, guard::word(keys), term.0);
        let lock = Lock::Keys(number, keys).take();
        // The fence that is there already stays.
        let update = format!(
            "{lock} UPDATE trunkline.reshard_ledger SET term = {term_number}, guarded = {}, fence_term = {term_number},
                fence_lsn = CASE WHEN fence_term = {term_number} AND '{kind}' = ANY (guarded) THEN fence_lsn
                    ELSE pg_catalog.pg_logical_emit_message(true, '{FENCE_PREFIX}', '{number}:{term_number}') END
                WHERE number = {number} RETURNING fence_lsn - '0/0'::pg_catalog.pg_lsn;",
            with(kind)
        );
        let text = self.order_text(lock_timeout, Needs::Open, Some(term), &update);
        let place = last_value(self.client, &text).await?;
        let place = place.and_then(|place| place.parse().ok()).map(Lsn);
        place.ok_or(ShardError::Strange("a fence without a place in the log"))
    }

    /// Indexes and constraints have been built. Needs an open ledger.
    pub async fn set_indexed(&self) -> Result<(), ShardError> {
        let update = format!(
            "UPDATE trunkline.reshard_ledger SET indexed = true WHERE number = {};",
            self.scope.number
        );
        self.order(Needs::Open, None, &update).await
    }

    /// For good; made closed if there is none. Waits for whoever writes rows of a stream now. What was noted of streams and chunks is forgotten.
    pub async fn close(&self, term: Term) -> Result<(), ShardError> {
        self.make_schema().await?;
        let (number, name, term_number) = (self.scope.number, text(&self.scope.name), term.0);
        let close = format!(
            "DELETE FROM trunkline.reshard_streams WHERE number = {number}; DELETE FROM trunkline.reshard_chunks WHERE number = {number};
             INSERT INTO trunkline.reshard_ledger (number, name, term, ready, closed) VALUES ({number}, {name}, {term_number}, true, true)
             ON CONFLICT (number) DO UPDATE SET term = {term_number}, ready = true, closed = true;"
        );
        self.order(Needs::Nothing, Some(term), &close).await
    }

    /// Ends the sessions that have written keys of this kind in a transaction that is still open; how many. Prepared transactions have none.
    pub async fn end_strangers(&self, keys: MovingKeys) -> Result<u64, ShardError> {
        let query = format!(
            "SELECT pg_catalog.count(*) FILTER (WHERE pg_catalog.pg_terminate_backend(pid)) FROM ({}) AS writers",
            writers(self.scope.number, keys)
        );
        let ended = last_value(self.client, &query).await?;
        Ok(ended.and_then(|count| count.parse().ok()).unwrap_or(0))
    }

    async fn make_schema(&self) -> Result<(), ShardError> {
        make(self.client, &format!("{STATEMENTS} {}", guard::FUNCTION)).await?;
        make_functions(self.client, self.scope).await
    }

    async fn order(
        &self,
        needs: Needs,
        term: Option<Term>,
        statements: &str,
    ) -> Result<(), ShardError> {
        let text = self.order_text(ORDER_WAIT, needs, term, statements);
        self.client.batch_execute(&text).await.map_err(said)
    }

    fn order_text(
        &self,
        lock_timeout: Duration,
        needs: Needs,
        term: Option<Term>,
        statements: &str,
    ) -> String {
        let number = self.scope.number;
        format!(
            "SET LOCAL lock_timeout = '{}ms'; SET LOCAL search_path = pg_catalog; {} {} {statements}",
            lock_timeout.as_millis().max(1),
            Lock::Orders(number).take(),
            check(number, term, needs)
        )
    }
}

/// Makes what the conditions of the plan call, if they do.
pub(super) async fn make_functions(client: &Client, scope: &Scope) -> Result<(), ShardError> {
    match scope.calls_our_functions() {
        true => {
            let text = format!("CREATE SCHEMA IF NOT EXISTS trunkline; {FUNCTIONS}");
            make(client, &text).await
        }
        false => Ok(()),
    }
}

/// Runs statements that make objects of the schema, and may be run again.
async fn make(client: &Client, statements: &str) -> Result<(), ShardError> {
    let text = format!("{} {statements}", Lock::Schema.take());
    match client.batch_execute(&text).await.map_err(said) {
        // Somebody made the schema for another purpose at the same time: it is there now.
        Err(error)
            if matches!(
                error.sqlstate(),
                Some("23505" | "42P06" | "42P07" | "XX000")
            ) =>
        {
            client.batch_execute(&text).await.map_err(said)
        }
        made => made,
    }
}

/// A statement that fails with [`STALE`] when the ledger is not as needed or has seen a greater term. The row is not locked: it cannot be while
/// a transaction waits for a table, as who writes to the table may want the row.
pub(super) fn check(number: u64, term: Option<Term>, needs: Needs) -> String {
    let absent = match needs {
        Needs::Open | Needs::Ledger => {
            format!(
                "RAISE EXCEPTION USING ERRCODE = '{STALE}', MESSAGE = 'there is no ledger of the plan';"
            )
        }
        Needs::Nothing => "RETURN;".to_owned(),
    };
    let closed = match needs {
        Needs::Open => format!(
            "IF is_closed THEN RAISE EXCEPTION USING ERRCODE = '{STALE}', MESSAGE = 'the ledger of the plan is closed'; END IF;"
        ),
        Needs::Ledger | Needs::Nothing => String::new(),
    };
    let greater = match term {
        Some(Term(term)) => format!(
            "IF obeyed > {term} THEN RAISE EXCEPTION USING ERRCODE = '{STALE}', MESSAGE = 'an order of a later term has been obeyed'; END IF;"
        ),
        None => String::new(),
    };
    format!(
        "DO $trunkline$ DECLARE is_closed pg_catalog.bool; obeyed pg_catalog.int8; BEGIN
            SELECT l.closed, l.term INTO is_closed, obeyed FROM trunkline.reshard_ledger l WHERE l.number = {number};
            IF NOT FOUND THEN {absent} END IF; {closed} {greater}
         END $trunkline$;"
    )
}

/// A statement that fails with [`STALE`] unless the ledger is closed and these keys are guarded, and keeps it so to the transaction's end.
pub(super) fn closed_and_guarded(number: u64, keys: MovingKeys) -> String {
    format!(
        "DO $trunkline$ BEGIN
            PERFORM FROM trunkline.reshard_ledger l WHERE l.number = {number} AND l.closed AND '{}' = ANY (l.guarded) FOR SHARE;
            IF NOT FOUND THEN RAISE EXCEPTION USING ERRCODE = '{STALE}', MESSAGE = 'the ledger of the plan is not closed, or the keys are not guarded'; END IF;
         END $trunkline$;",
        guard::word(keys)
    )
}

/// The column `guarded` with this kind.
fn with(kind: &str) -> String {
    format!("CASE WHEN '{kind}' = ANY (guarded) THEN guarded ELSE guarded || '{kind}'::text END")
}

/// A query of `pid`: sessions with an open transaction that wrote keys of this kind.
pub(super) fn writers(number: u64, keys: MovingKeys) -> String {
    let (first, second) = Lock::Keys(number, keys).halves();
    format!(
        "SELECT DISTINCT l.pid FROM pg_catalog.pg_locks l WHERE l.locktype = 'advisory' AND l.mode = 'ShareLock' AND l.granted AND l.objsubid = 2
            AND l.classid = {} AND l.objid = {} AND l.pid IS NOT NULL
            AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())",
        first.cast_unsigned(),
        second.cast_unsigned()
    )
}

/// A text in SQL.
pub(super) fn text(value: &str) -> String {
    match value.contains('\\') {
        true => format!("E'{}'", value.replace('\\', "\\\\").replace('\'', "''")),
        false => format!("'{}'", value.replace('\'', "''")),
    }
}

pub(super) fn keys_of(word: &str) -> Result<MovingKeys, ShardError> {
    match word {
        "leaving" => Ok(MovingKeys::Leaving),
        "arriving" => Ok(MovingKeys::Arriving),
        _ => Err(ShardError::Strange("a ledger with another kind of keys")),
    }
}

/// What the server said, when it is a refusal of ours.
pub(super) fn said(error: tokio_postgres::Error) -> ShardError {
    match error.as_db_error() {
        Some(said) if said.code().code() == STALE => ShardError::Stale(said.message().into()),
        _ => ShardError::Postgres(error),
    }
}

/// The first column of the last row that the statements gave; `None`: no row or NULL.
async fn last_value(client: &Client, statements: &str) -> Result<Option<String>, ShardError> {
    let messages = client.simple_query(statements).await.map_err(said)?;
    // Locks and checks give rows as well: the last statement's count.
    let mut last = None;
    for message in messages {
        match message {
            SimpleQueryMessage::Row(row) => last = Some(row.get(0).map(str::to_owned)),
            SimpleQueryMessage::CommandComplete(0) => last = None,
            _ => {}
        }
    }
    Ok(last.flatten())
}
