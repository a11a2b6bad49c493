//! This proxy's part in every plan: it serves by the maps in force, keeps gates closed, and says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Reshards;
use crate::moving::overlay::{Overlays, overlays};
use crate::moving::records::{self, Kept, PREFIX, ProxyRecord};
use crate::server::control::{Moved, MovingKeys, ask_all};
use crate::server::worker::Command;
use crate::store::{Claim, Expected, Lease, Store, StoreError, Transaction, Version, Watch};

/// Between two attempts to be known to others.
const AGAIN: Duration = Duration::from_millis(500);
/// Between two looks whether somebody is still at work behind a closed gate.
const DRAIN_POLL: Duration = Duration::from_millis(1);
/// What is not ended by then is said to be open.
const SOON: Duration = Duration::from_millis(50);

/// What this proxy has told of itself, by database.
type Told = BTreeMap<Box<str>, (ProxyRecord, Version)>;

impl Reshards {
    /// Follows the control store for as long as the process runs.
    pub(super) async fn stay(&self, store: &Store) {
        loop {
            if let Err(error) = self.tenure(store).await {
                tracing::warn!(%error, "moves between shards are not followed");
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// From taking the lease to its loss.
    async fn tenure(&self, store: &Store) -> Result<(), StoreError> {
        let name = records::proxy_lease(self.name());
        let Claim::Held(lease) = store.lease(&name, self.name(), store.lease_ttl()).await? else {
            // Our own, which has not ended yet.
            return Ok(());
        };
        let lease = Arc::new(lease);
        let mut told = Told::new();
        // Whoever closes a gate from now on waits for this proxy, and what it looks at next has all gates that were closed before.
        let nothing = Overlays::default();
        for database in &self.topology.config().databases {
            self.tell(store, &lease, &nothing, &database.name, true, &mut told)
                .await?;
        }
        let mut watch = store.watch(PREFIX).await?;
        let follow = async {
            loop {
                self.follow_change(store, &lease, &mut watch, &mut told)
                    .await?;
            }
        };
        tokio::select! {
            // It never ends but by an error.
            ended = follow => ended,
            () = lease.lost() => Ok(()),
        }
    }

    /// Takes over what the store holds now, and waits for the next change.
    async fn follow_change(
        &self,
        store: &Store,
        lease: &Arc<Lease>,
        watch: &mut Watch,
        told: &mut Told,
    ) -> Result<(), StoreError> {
        let listing = watch.changed().await;
        let databases = match records::read(&listing) {
            Ok(databases) => databases,
            Err(error) => {
                // What it says may be that a map has changed. The lease goes, so that nobody counts on this proxy, and its gates close.
                tracing::error!(%error, "moves between shards cannot be followed");
                lease_is_given_up(lease).await;
                return Ok(());
            }
        };
        let overlays = Arc::new(overlays(&databases));
        self.publish(&overlays, lease).await;
        self.databases.send_replace(Arc::new(databases));
        let config = self.topology.config();
        let configured = config.databases.iter();
        let databases: BTreeSet<&str> = configured.map(|database| &*database.name).collect();
        let closed = |name: &str| overlays.get(name).is_some_and(|one| !one.closed.is_empty());
        let begun = tokio::time::Instant::now();
        loop {
            let mut undrained = false;
            for name in databases.iter().copied() {
                let drained = !closed(name) || self.inside(name).await == 0;
                undrained |= !drained;
                // Mostly one word is enough.
                if drained || begun.elapsed() >= SOON {
                    self.tell(store, lease, &overlays, name, drained, told)
                        .await?;
                }
            }
            if !undrained {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = watch.news() => return Ok(()),
                () = tokio::time::sleep(DRAIN_POLL) => {}
            }
        }
    }

    /// Puts maps and gates in force on every worker.
    async fn publish(&self, overlays: &Arc<Overlays>, lease: &Arc<Lease>) {
        let (done, followed) = oneshot::channel();
        let keys = MovingKeys {
            overlays: Arc::clone(overlays),
            tenure: Some(Arc::clone(lease)),
            fleet: self.fleet(),
        };
        if self.moved.send(Moved { keys, done }).is_ok() {
            // An error is the end of the process.
            let _ = followed.await;
        }
    }

    /// How many sessions of this process may be at work on moving keys.
    async fn inside(&self, database: &str) -> usize {
        let counts = ask_all(&self.workers, |answer| {
            Command::Inside(database.into(), answer)
        });
        counts.await.into_iter().sum()
    }

    /// Says what this proxy keeps closed, unless it has.
    async fn tell(
        &self,
        store: &Store,
        lease: &Lease,
        overlays: &Overlays,
        database: &str,
        drained: bool,
        told: &mut Told,
    ) -> Result<(), StoreError> {
        let record = overlays
            .get(database)
            .map_or_else(ProxyRecord::default, |overlay| {
                let gates = overlay.closed.iter().map(|(plan, closed)| {
                    let kept = Kept {
                        number: closed.number,
                        term: closed.term,
                        drained,
                    };
                    (plan.clone(), kept)
                });
                ProxyRecord {
                    epoch: overlay.epoch.0,
                    places: overlay.places_epoch,
                    gates: gates.collect(),
                }
            });
        let before = told.get(database);
        if before.is_some_and(|(known, _)| *known == record) {
            return Ok(());
        }
        let key = records::proxy_key(database, self.name());
        let expected = match before {
            Some((_, version)) => Expected::Version(*version),
            None => store.get(&key).await?.map(|known| known.version).into(),
        };
        let telling = Transaction::new()
            .under(lease)
            .expect(key.clone(), expected)
            .put(key, records::encode(&record));
        let version = store.commit(telling).await?;
        told.insert(database.into(), (record, version));
        Ok(())
    }
}

/// Waits for the end of a lease that is not to be kept.
async fn lease_is_given_up(lease: &Lease) {
    lease.give_up();
    lease.lost().await;
}
