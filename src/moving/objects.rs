//! Publications and slots of plans: made, dropped, and found when nobody knows of them any more.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio_postgres::Client;

use crate::backend::replication::{
    Failover, Lifetime, PublicationName, ReplicationConnection, ServerMajor, SlotName, SlotRequest,
    Snapshot, TwoPhase, publication, publication::Partitions,
};
use crate::resharding::job::MovingKeys;

use super::guard::{self, Lock};
use super::ledger::{self, Needs, OnShard};
use super::shards::ShardError;
use super::triggers;

/// Slots that replicas keep.
const FAILOVER_SLOTS: ServerMajor = ServerMajor(17);
/// For a slot whose reader was ended to be free.
const FREE_TRIES: u32 = 50;
const FREE_PAUSE: Duration = Duration::from_millis(20);

impl OnShard<'_> {
    /// Of exactly the moved tables that are there. Needs an open ledger; must be made before the slot, whose stream looks for it in the past.
    pub async fn make_publication(&self, name: &str) -> Result<(), ShardError> {
        let name = publication_name(name)?;
        let tables = self.tables_here().await?;
        let tables: Vec<(&str, &str)> = tables
            .iter()
            .map(|(schema, table)| (&**schema, &**table))
            .collect();
        let text = format!(
            "{} {} {}",
            Lock::Orders(self.scope.number).take(),
            ledger::check(self.scope.number, None, Needs::Open),
            publication::create(&name, &tables, Partitions::Root)
        );
        match triggers::patiently(self.client, &text).await {
            // It is there already.
            Err(error) if error.sqlstate() == Some("42710") => Ok(()),
            made => made,
        }
    }

    /// Makes a slot, which takes as long as the longest transaction that runs now. Needs an open ledger, at the end too: a slot that was made
    /// too late is dropped again.
    pub async fn make_slot(
        &self,
        replication: &mut ReplicationConnection,
        name: &str,
    ) -> Result<(), ShardError> {
        self.is_open().await?;
        let request = SlotRequest {
            name: slot_name(name)?,
            lifetime: Lifetime::Permanent,
            snapshot: Snapshot::Nothing,
            two_phase: TwoPhase::AtCommit,
            failover: match replication.server() >= FAILOVER_SLOTS {
                true => Failover::Kept,
                false => Failover::Lost,
            },
        };
        match replication.create_slot(&request).await {
            Ok(_) => {}
            // It is there already, or somebody is making it.
            Err(error) if error.sqlstate() == Some("42710") => {}
            Err(error) => return Err(error.into()),
        }
        match self.is_open().await {
            Err(stale @ ShardError::Stale(_)) => {
                drop_slot(self.client, name).await?;
                Err(stale)
            }
            open => open,
        }
    }

    async fn is_open(&self) -> Result<(), ShardError> {
        let check = ledger::check(self.scope.number, None, Needs::Open);
        self.client
            .batch_execute(&check)
            .await
            .map_err(ledger::said)
    }

    /// Moved tables, by schema and name.
    async fn tables_here(&self) -> Result<Vec<(String, String)>, ShardError> {
        let (schemas, names): (Vec<&str>, Vec<&str>) = self
            .scope
            .tables
            .iter()
            .map(|table| (&*table.schema, &*table.name))
            .unzip();
        let query = "SELECT n.nspname::text, c.relname::text
            FROM unnest($1::text[], $2::text[]) AS wanted (schema_name, table_name)
                JOIN pg_catalog.pg_namespace n ON n.nspname = wanted.schema_name
                JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.table_name AND c.relkind IN ('r', 'p')
            ORDER BY 1, 2";
        let rows = self.client.query(query, &[&schemas, &names]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}

/// There may be none.
pub async fn drop_publication(client: &Client, name: &str) -> Result<(), ShardError> {
    let text = publication::drop(&publication_name(name)?);
    triggers::patiently(client, &text).await
}

/// Ends whoever reads or makes the slot, and drops it; there may be none.
pub async fn drop_slot(client: &Client, name: &str) -> Result<(), ShardError> {
    let name = slot_name(name)?;
    let end =
        "SELECT pg_catalog.pg_terminate_backend(active_pid) FROM pg_catalog.pg_replication_slots
        WHERE slot_name = $1::text AND active_pid IS NOT NULL";
    let drop = "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots WHERE slot_name = $1::text";
    let mut tries = 0;
    loop {
        client.execute(end, &[&name.as_str()]).await?;
        match client.execute(drop, &[&name.as_str()]).await {
            Ok(_) => return Ok(()),
            Err(error) => match error.code().map(|code| code.code()) {
                // It went meanwhile.
                Some("42704") => return Ok(()),
                // Its reader is still on its way out.
                Some("55006") if tries < FREE_TRIES => {
                    tries += 1;
                    tokio::time::sleep(FREE_PAUSE).await;
                }
                _ => return Err(error.into()),
            },
        }
    }
}

/// What a plan has left in a database where no living plan has its number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Orphan {
    Slot(String),
    Publication(String),
    /// Triggers, of the plan with this number.
    Guards(u64),
}

/// The connected database's slots, publications and guards that are named as plans name them, whose number is not among these, and whose ledger here
/// is closed: another Trunkline may run plans on the same database.
pub async fn orphans(client: &Client, live: &[u64]) -> Result<Vec<Orphan>, ShardError> {
    let closed = "SELECT number FROM trunkline.reshard_ledger WHERE closed";
    let closed = match client.query(closed, &[]).await {
        Ok(rows) => rows,
        Err(error) => match error.code().map(|code| code.code()) {
            // No plan was ever here.
            Some("42P01" | "3F000") => return Ok(Vec::new()),
            _ => return Err(error.into()),
        },
    };
    let closed = closed.iter();
    let closed: BTreeSet<u64> = closed
        .map(|row| row.get::<_, i64>(0).cast_unsigned())
        .collect();
    let query = "SELECT 'slot', slot_name::text, pg_catalog.substring(slot_name::text, '^trunkline_([0-9]+)_') FROM pg_catalog.pg_replication_slots
            WHERE database = pg_catalog.current_database() AND slot_name::text ~ '^trunkline_[0-9]+_'
        UNION SELECT 'publication', pubname::text, pg_catalog.substring(pubname::text, '[0-9]+$') FROM pg_catalog.pg_publication
            WHERE pubname::text ~ '^trunkline_reshard_[0-9]+$'
        UNION SELECT 'guards', '', pg_catalog.substring(tgname::text, '[0-9]+') FROM pg_catalog.pg_trigger
            WHERE tgname::text ~ '^trunkline_reshard_[0-9]+_(leaving|arriving)_'
        ORDER BY 1, 2, 3";
    let mut orphans = Vec::new();
    for row in client.query(query, &[]).await? {
        let Ok(number) = row.get::<_, &str>(2).parse::<u64>() else {
            continue;
        };
        if live.contains(&number) || !closed.contains(&number) {
            continue;
        }
        orphans.push(match row.get(0) {
            "slot" => Orphan::Slot(row.get(1)),
            "publication" => Orphan::Publication(row.get(1)),
            _ => Orphan::Guards(number),
        });
    }
    Ok(orphans)
}

pub async fn remove_orphan(client: &Client, orphan: &Orphan) -> Result<(), ShardError> {
    match orphan {
        Orphan::Slot(name) => drop_slot(client, name).await,
        Orphan::Publication(name) => drop_publication(client, name).await,
        Orphan::Guards(number) => {
            let names =
                [MovingKeys::Leaving, MovingKeys::Arriving].map(|keys| guard::names(*number, keys));
            triggers::remove(client, &names.concat()).await
        }
    }
}

fn slot_name(name: &str) -> Result<SlotName, ShardError> {
    SlotName::new(name).map_err(|_| ShardError::Strange("the job names a slot as none can be"))
}

fn publication_name(name: &str) -> Result<PublicationName, ShardError> {
    PublicationName::new(name)
        .map_err(|_| ShardError::Strange("the job names a publication as none can be"))
}
