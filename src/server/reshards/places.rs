//! Where tables belong that no configuration has to name: recorded in the control store before they are there, at the word of a client that creates one
//! or of an administrator.
//!
//! A place is recorded in two steps, so that no row is ever where it does not belong. First it is *not settled*: every proxy takes it over, and lets nobody create
//! the table without coming here. When all proxies that are alive have said so, and the table is still nowhere, it is settled, and whoever waits may create it.
//! It is forgotten the same way backwards.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::Reshards;
use super::orders::{Databases, no_store, refused};
use crate::catalog::placed::{Place, Recorded, Settled};
use crate::catalog::{Configured, Placement, QualifiedName, quoted_name};
use crate::moving::records::{self, Known};
use crate::resharding::report::Refused;
use crate::sharding::ShardId;
use crate::store::{Expected, Store, StoreError, Transaction};
use crate::topology::{NodeError, Primary};

/// How long other proxies may take to follow.
const PATIENCE: Duration = Duration::from_secs(45);
/// Between two looks whether those that have not followed are alive.
const LOOK: Duration = Duration::from_millis(100);
/// Places of one database: each proxy has all of them in memory.
const MOST_PLACES: usize = 3_000;
/// How often a record that others write meanwhile is tried: many tables may be made at the same time.
const MOST_TRIES: u32 = 200;
/// Names that servers do not cut.
const LONGEST_NAME: usize = 63;

/// A table that is to get a place.
pub struct Wanted {
    pub table: QualifiedName,
    pub place: Place,
    /// Who creates the table, and must be allowed to. `None`: an administrator.
    pub role: Option<Box<str>>,
    /// Schemas in which the table would be made if they were there.
    pub passed_over: Vec<Box<str>>,
}

impl Reshards {
    /// Gives a table its place. Comes back when every proxy that is alive plans by it.
    pub async fn place(
        &self,
        database: &str,
        wanted: &Wanted,
        configured: &Databases,
    ) -> Result<(), Refused> {
        let configured = one_of(configured, database)?;
        let store = self.control_store.open().await.map_err(no_store)?;
        for _ in 0..MOST_TRIES {
            let known = self.known_of(&store, database).await?;
            let recorded = known.places.find(&wanted.table);
            match recorded {
                Some(recorded) if recorded.place != wanted.place => {
                    return Err(refused(
                        "42710",
                        format!("{} has a place: {}", quoted(&wanted.table), recorded.place),
                        "ALTER TABLE ... RESET in the admin database takes it back, while the table does not exist.",
                    ));
                }
                Some(recorded) if recorded.settled == Settled::Yes => {
                    return self.followed(&store, database, known.places.epoch).await;
                }
                Some(_) => self.followed(&store, database, known.places.epoch).await?,
                None => check(wanted, configured, &known)?,
            }
            self.check_is_nowhere(database, wanted).await?;
            let settled = match recorded {
                Some(_) => Settled::Yes,
                None => Settled::No,
            };
            let recorded = Recorded {
                place: wanted.place.clone(),
                settled,
            };
            self.record(&store, database, &known, &wanted.table, Some(recorded))
                .await?;
        }
        Err(never_still())
    }

    /// Forgets a table's place.
    pub async fn forget_place(
        &self,
        database: &str,
        table: &QualifiedName,
        configured: &Databases,
    ) -> Result<(), Refused> {
        one_of(configured, database)?;
        let store = self.control_store.open().await.map_err(no_store)?;
        let mut was = None;
        for _ in 0..MOST_TRIES {
            let known = self.known_of(&store, database).await?;
            let Some(recorded) = known.places.find(table) else {
                return Err(refused(
                    "42704",
                    format!("no place was recorded for {}", quoted(table)),
                    "SHOW TABLES shows where tables belong, and in declared_by which of that is recorded.",
                ));
            };
            let was = was.get_or_insert_with(|| recorded.clone());
            let unsettled = Recorded {
                settled: Settled::No,
                ..recorded.clone()
            };
            if *recorded != unsettled {
                self.record(&store, database, &known, table, Some(unsettled))
                    .await?;
                continue;
            }
            self.followed(&store, database, known.places.epoch).await?;
            let gone = Wanted {
                table: table.clone(),
                place: recorded.place.clone(),
                role: None,
                passed_over: Vec::new(),
            };
            if let Err(refused) = self.check_is_nowhere(database, &gone).await {
                // As before: the table may be made.
                self.record(&store, database, &known, table, Some(was.clone()))
                    .await?;
                return Err(refused);
            }
            if self.record(&store, database, &known, table, None).await? {
                let known = self.known_of(&store, database).await?;
                return self.followed(&store, database, known.places.epoch).await;
            }
        }
        Err(never_still())
    }

    async fn known_of(&self, store: &Store, database: &str) -> Result<Known, Refused> {
        Ok(self
            .known(store)
            .await?
            .remove(database)
            .unwrap_or_default())
    }

    /// Writes it down, unless the records or the plans have changed meanwhile; whether it did.
    async fn record(
        &self,
        store: &Store,
        database: &str,
        known: &Known,
        table: &QualifiedName,
        recorded: Option<Recorded>,
    ) -> Result<bool, Refused> {
        let key = records::places_key(database);
        let places = known.places.with(table, recorded);
        let transaction = Transaction::new()
            .expect(key.clone(), Expected::from(known.places_version))
            .put(key, records::encode(&places));
        match store.commit(transaction).await {
            Ok(_) => Ok(true),
            Err(StoreError::Conflict(_)) => Ok(false),
            Err(error) => Err(refused(
                "58000",
                format!("the control store: {error}"),
                "SHOW TABLES tells whether the place was recorded.",
            )),
        }
    }

    /// The table is on no shard, and nobody is making it; who creates it may do so.
    async fn check_is_nowhere(&self, database: &str, wanted: &Wanted) -> Result<(), Refused> {
        let config = self.topology.config();
        for (place, shard) in (0..).zip(&config.shards) {
            let primary = self.topology.primary(database, ShardId(place)).await;
            let primary = primary.map_err(|error| not_asked(&shard.name, &error.to_string()))?;
            look(&primary, &shard.name, wanted).await?;
            primary.release();
        }
        Ok(())
    }

    /// Waits until every proxy that is alive has the places of this version, or a later one, in force.
    async fn followed(&self, store: &Store, database: &str, epoch: u64) -> Result<(), Refused> {
        let begun = Instant::now();
        let mut databases = self.databases.subscribe();
        loop {
            let known = Arc::clone(&databases.borrow_and_update());
            let proxies = known.get(database).map(|known| &known.proxies);
            let mut behind = Vec::new();
            for (name, record) in proxies.into_iter().flatten() {
                let awaited = record.places < epoch
                    && store
                        .holder(&records::proxy_lease(name))
                        .await
                        .map_err(no_store)?
                        .is_some();
                behind.extend(awaited.then_some(&**name));
            }
            let own = proxies.and_then(|proxies| proxies.get(self.name()));
            let here = own.is_some_and(|record| record.places >= epoch);
            if here && behind.is_empty() {
                return Ok(());
            }
            if begun.elapsed() >= PATIENCE {
                if !here {
                    behind.push("this one");
                }
                return Err(refused(
                    "57014",
                    format!(
                        "proxies have not heard of the table's place within {PATIENCE:?}: {}",
                        behind.join(", ")
                    ),
                    "Nothing was created; try again.",
                ));
            }
            let _ = tokio::time::timeout(LOOK, databases.changed()).await;
        }
    }
}

fn quoted((schema, name): &QualifiedName) -> String {
    format!("{}.{}", quoted_name(schema), quoted_name(name))
}

fn one_of<'a>(configured: &'a Databases, database: &str) -> Result<&'a Configured, Refused> {
    configured.get(database).ok_or_else(|| {
        refused(
            "3D000",
            format!("there is no database {database}"),
            "SHOW DATABASES lists them.",
        )
    })
}

fn never_still() -> Refused {
    refused(
        "40001",
        "the places of tables change all the time".to_owned(),
        "Try again.",
    )
}

fn not_asked(shard: &str, why: &str) -> Refused {
    refused(
        "58000",
        format!("shard {shard} cannot be asked whether it has the table: {why}"),
        "Try again when every shard answers.",
    )
}

/// In a schema that a client's transaction has just made, who made it may do what it likes.
const LOOK_FOR: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = $1::text AND c.relname = $2::text),
    (SELECT pg_catalog.has_schema_privilege(r.oid, n.oid, 'CREATE')
     FROM pg_catalog.pg_namespace n, pg_catalog.pg_roles r WHERE n.nspname = $1::text AND r.rolname = $3::text),
    (SELECT pg_catalog.has_database_privilege(r.oid, pg_catalog.current_database(), 'CREATE') FROM pg_catalog.pg_roles r WHERE r.rolname = $3::text),
    (SELECT min(n.nspname::text) FROM pg_catalog.pg_namespace n WHERE n.nspname::text = ANY ($4::text[]))";

async fn look(primary: &Primary, shard: &str, wanted: &Wanted) -> Result<(), Refused> {
    let (schema, name) = (&*wanted.table.0, &*wanted.table.1);
    let role = wanted.role.as_deref();
    let passed_over: Vec<&str> = wanted.passed_over.iter().map(|schema| &**schema).collect();
    let parameters: [&(dyn ToSql + Sync); 4] = [&schema, &name, &role, &passed_over];
    let found = primary.query_one(LOOK_FOR, &parameters).await;
    let found = found.map_err(|error| not_asked(shard, &NodeError::described(&error)))?;
    let is_there = || {
        refused(
            "42P07",
            format!(
                "{} is on shard {shard}: a place is given, or forgotten, while there is no such table",
                quoted(&wanted.table)
            ),
            "DROP it first, or create one with another name and move the rows.",
        )
    };
    if found.get(0) {
        return Err(is_there());
    }
    let in_schema: Option<bool> = found.get(1);
    let in_database: Option<bool> = found.get(2);
    if let Some(role) = role
        && in_schema.or(in_database) != Some(true)
    {
        return Err(refused(
            "42501",
            format!(
                "role {} may not create tables in schema {} on shard {shard}",
                quoted_name(role),
                quoted_name(schema)
            ),
            "GRANT CREATE ON SCHEMA gives the right.",
        ));
    }
    if let Some(other) = found.get::<_, Option<String>>(3) {
        return Err(refused(
            "42P16",
            format!(
                "the table would be made in schema {}, which comes first in search_path, and which Trunkline does not know yet",
                quoted_name(&other)
            ),
            "Write the schema in front of the table's name.",
        ));
    }
    // Somebody's transaction may have made it: that one is waited for by whoever makes another.
    let make = format!(
        "BEGIN; SET LOCAL lock_timeout = '2s'; CREATE TABLE {} (); ROLLBACK",
        quoted(&wanted.table)
    );
    let Err(error) = primary.batch_execute(&make).await else {
        return Ok(());
    };
    let ended = primary.batch_execute("ROLLBACK").await;
    ended.map_err(|error| not_asked(shard, &NodeError::described(&error)))?;
    match error.code() {
        Some(code) if [SqlState::DUPLICATE_TABLE, SqlState::UNIQUE_VIOLATION].contains(code) => {
            Err(is_there())
        }
        Some(code) if *code == SqlState::LOCK_NOT_AVAILABLE => Err(refused(
            "55P03",
            format!(
                "a transaction that is open on shard {shard} makes {}",
                quoted(&wanted.table)
            ),
            "Try again when it has ended.",
        )),
        // Nobody but who makes the schema makes tables in it.
        Some(code) if *code == SqlState::INVALID_SCHEMA_NAME => Ok(()),
        Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => Err(refused(
            "42501",
            format!(
                "whether an open transaction makes {} on shard {shard} cannot be seen by role {}, which Trunkline looks with: it may not create tables in the schema",
                quoted(&wanted.table),
                quoted_name(&primary.identity().role)
            ),
            "GRANT CREATE ON SCHEMA to that role.",
        )),
        _ => Err(not_asked(shard, &NodeError::described(&error))),
    }
}

/// What speaks against it, as far as it is written down.
fn check(wanted: &Wanted, configured: &Configured, known: &Known) -> Result<(), Refused> {
    let table = quoted(&wanted.table);
    let names = [&wanted.table.0, &wanted.table.1];
    if let Some(long) = names.into_iter().find(|name| name.len() > LONGEST_NAME) {
        return Err(refused(
            "42622",
            format!("the name {long} has more than {LONGEST_NAME} bytes: servers would cut it"),
            "Give the name as it is cut.",
        ));
    }
    if known.places.tables.len() >= MOST_PLACES {
        return Err(refused(
            "54000",
            format!("{MOST_PLACES} tables of the database have recorded places"),
            "Write some into [[tables]] of the configuration, and ALTER TABLE ... RESET those that do not exist.",
        ));
    }
    let placement = wanted.place.placement(&configured.distributions);
    let placement = placement.map_err(|misfit| {
        refused(
            "22023",
            format!("{table}: {misfit}"),
            "SHOW DISTRIBUTIONS lists them with their keys.",
        )
    })?;
    let mut tables = configured.tables.iter();
    if tables.any(|configured| configured.name == wanted.table) {
        return Err(refused(
            "42710",
            format!("the configuration says where {table} belongs"),
            "Change its [[tables]] there and RELOAD.",
        ));
    }
    if let Some(plan) = known.unreadable.keys().next() {
        return Err(refused(
            "55000",
            format!("the plan {plan} cannot be read: it may move rows of any distribution"),
            "A newer Trunkline may have written it: ask that one.",
        ));
    }
    let Placement::Sharded { distribution, .. } = placement else {
        return Ok(());
    };
    let distribution = &configured.distributions[usize::from(distribution.0)].name;
    let mut open = known.plans.values().filter(|job| !job.is_over());
    let moves = open.find(|job| {
        let mut changes = job.plan.maps.iter();
        changes.any(|change| change.distribution == *distribution)
    });
    match moves {
        Some(job) => Err(refused(
            "55006",
            format!(
                "the plan {} moves rows of {distribution}, and has its tables",
                job.plan.name
            ),
            "FINISH or CANCEL it first.",
        )),
        None => Ok(()),
    }
}
