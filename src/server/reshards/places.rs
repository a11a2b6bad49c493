//! Where tables belong that no configuration has to name: recorded in the control store before they are there, at the word of a client that creates one
//! or of an administrator.
//!
//! A place is recorded only while the table is nowhere, so that no row is ever where it does not belong; and nobody is told that it is recorded before every
//! proxy plans by it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::types::ToSql;

use super::Reshards;
use super::orders::{Databases, MOST_TRIES, no_store, not_written, refused};
use crate::catalog::placed::Place;
use crate::catalog::{Configured, Placement, QualifiedName, quoted_name};
use crate::moving::records::{self, Known};
use crate::resharding::job::Phase;
use crate::resharding::report::Refused;
use crate::sharding::ShardId;
use crate::store::{Expected, Store, StoreError, Transaction};
use crate::topology::NodeError;

/// How long other proxies may take to follow.
const PATIENCE: Duration = Duration::from_secs(45);
/// Between two looks whether those that have not followed are alive.
const LOOK: Duration = Duration::from_millis(100);

/// What is asked for.
pub struct Wanted {
    pub table: QualifiedName,
    /// `None`: what was recorded is forgotten.
    pub place: Option<Place>,
    /// Who creates the table, and must be allowed to. `None`: an administrator.
    pub role: Option<Box<str>>,
}

impl Reshards {
    /// Records a table's place, or forgets it. Comes back when every proxy that is alive plans by that.
    pub async fn place(
        &self,
        database: &str,
        wanted: &Wanted,
        configured: &Databases,
    ) -> Result<(), Refused> {
        let configured = configured.get(database).ok_or_else(|| {
            refused(
                "3D000",
                format!("there is no database {database}"),
                "SHOW DATABASES lists them.",
            )
        })?;
        let store = self.control_store.open().await.map_err(no_store)?;
        let epoch = self.record(&store, database, wanted, configured).await?;
        self.followed(&store, database, epoch).await
    }

    /// The version of the places with it.
    async fn record(
        &self,
        store: &Store,
        database: &str,
        wanted: &Wanted,
        configured: &Configured,
    ) -> Result<u64, Refused> {
        for _ in 0..MOST_TRIES {
            let mut known = self.known(store).await?;
            let known = known.remove(database).unwrap_or_default();
            if known.places.tables.get(&wanted.table) == wanted.place.as_ref() {
                // Somebody was faster.
                return Ok(known.places.epoch);
            }
            check(wanted, configured, &known)?;
            self.check_is_nowhere(database, wanted).await?;
            let mut places = known.places.clone();
            places.epoch += 1;
            match &wanted.place {
                Some(place) => places.tables.insert(wanted.table.clone(), place.clone()),
                None => places.tables.remove(&wanted.table),
            };
            let key = records::places_key(database);
            let mut transaction = Transaction::new()
                .expect(key.clone(), Expected::from(known.places_version))
                .put(key, records::encode(&places));
            // None of them starts meanwhile.
            for (plan, version) in &known.versions {
                let key = records::plan_key(database, plan);
                transaction = transaction.expect(key, Expected::Version(*version));
            }
            match store.commit(transaction).await {
                Ok(_) => return Ok(places.epoch),
                Err(StoreError::Conflict(_)) => {}
                Err(error) => return Err(not_written(error)),
            }
        }
        Err(refused(
            "40001",
            "the places of tables change all the time".to_owned(),
            "Try again.",
        ))
    }

    /// The table is on no shard, and who creates it may do so.
    async fn check_is_nowhere(&self, database: &str, wanted: &Wanted) -> Result<(), Refused> {
        let config = self.topology.config();
        let (schema, name) = (&*wanted.table.0, &*wanted.table.1);
        for (place, shard) in (0..).zip(&config.shards) {
            let not_asked = |why: String| {
                refused(
                    "58000",
                    format!(
                        "shard {} cannot be asked whether it has the table: {why}",
                        shard.name
                    ),
                    "Try again when every shard answers.",
                )
            };
            let primary = self.topology.primary(database, ShardId(place)).await;
            let primary = primary.map_err(|error| not_asked(error.to_string()))?;
            // In a schema that a client's transaction has just made, it may do what it likes.
            let role = wanted.role.as_deref();
            let parameters: [&(dyn ToSql + Sync); 3] = [&schema, &name, &role];
            let found = primary.query_one(
                "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                                WHERE n.nspname = $1::text AND c.relname = $2::text),
                    (SELECT pg_catalog.has_schema_privilege(r.oid, n.oid, 'CREATE')
                     FROM pg_catalog.pg_namespace n, pg_catalog.pg_roles r WHERE n.nspname = $1::text AND r.rolname = $3::text),
                    (SELECT pg_catalog.has_database_privilege(r.oid, pg_catalog.current_database(), 'CREATE') FROM pg_catalog.pg_roles r WHERE r.rolname = $3::text)",
                &parameters,
            );
            let found = found
                .await
                .map_err(|error| not_asked(NodeError::described(&error)))?;
            primary.release();
            let is_there: bool = found.get(0);
            if is_there {
                let (schema, name) = (quoted_name(schema), quoted_name(name));
                let (why, hint) = match wanted.place {
                    Some(_) => (
                        "a table gets its place before it is made",
                        "DROP it first, or create one with another name and move the rows.",
                    ),
                    None => ("its place is forgotten when it is gone", "DROP it first."),
                };
                return Err(refused(
                    "42P07",
                    format!("{schema}.{name} is on shard {}: {why}", shard.name),
                    hint,
                ));
            }
            let in_schema: Option<bool> = found.get(1);
            let in_database: Option<bool> = found.get(2);
            if let Some(role) = &wanted.role
                && in_schema.or(in_database) != Some(true)
            {
                return Err(refused(
                    "42501",
                    format!(
                        "role {} may not create tables in schema {} on shard {}",
                        quoted_name(role),
                        quoted_name(schema),
                        shard.name
                    ),
                    "GRANT CREATE ON SCHEMA gives the right.",
                ));
            }
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
                    format!("proxies that have not followed: {}", behind.join(", ")),
                    "The place is recorded: try again, nothing else was done.",
                ));
            }
            let _ = tokio::time::timeout(LOOK, databases.changed()).await;
        }
    }
}

/// What speaks against it, as far as it is written down.
fn check(wanted: &Wanted, configured: &Configured, known: &Known) -> Result<(), Refused> {
    let (schema, name) = (quoted_name(&wanted.table.0), quoted_name(&wanted.table.1));
    let placement = match &wanted.place {
        Some(place) => {
            let placement = place.placement(&configured.distributions);
            Some(placement.map_err(|misfit| {
                refused(
                    "22023",
                    format!("{schema}.{name}: {misfit}"),
                    "SHOW DISTRIBUTIONS lists them with their keys.",
                )
            })?)
        }
        None => None,
    };
    let mut tables = configured.tables.iter();
    if wanted.place.is_some() && tables.any(|table| table.name == wanted.table) {
        return Err(refused(
            "42710",
            format!("the configuration says where {schema}.{name} belongs"),
            "Change its [[tables]] there and RELOAD.",
        ));
    }
    let recorded = known.places.tables.get(&wanted.table);
    if let (Some(recorded), Some(_)) = (recorded, &wanted.place) {
        return Err(refused(
            "42710",
            format!("{schema}.{name} has a place: {recorded}"),
            "ALTER TABLE ... RESET in the admin database takes it back, while the table does not exist.",
        ));
    }
    let before = recorded.and_then(|recorded| recorded.placement(&configured.distributions).ok());
    for placement in placement.iter().chain(&before) {
        let Placement::Sharded { distribution, .. } = placement else {
            continue;
        };
        let distribution = &configured.distributions[usize::from(distribution.0)].name;
        for job in known.plans.values() {
            let moves = job
                .plan
                .maps
                .iter()
                .any(|change| change.distribution == *distribution);
            let planned = matches!(job.phase, Phase::Planned | Phase::Checked);
            if moves && !job.is_over() && !planned {
                return Err(refused(
                    "55006",
                    format!("the plan {} moves rows of {distribution}", job.plan.name),
                    "FINISH or CANCEL it first.",
                ));
            }
        }
    }
    Ok(())
}
