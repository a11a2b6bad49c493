//! The other proxies: saying that we are alive and what we see, and hearing it of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Failover;
use super::record::{self, Sight};
use crate::store::{Claim, Expected, Lease, Store, StoreError, Transaction, Version};
use crate::topology::view::{Stage, View};

/// Between two attempts to say something to a store that did not take it.
const AGAIN: Duration = Duration::from_millis(500);

/// What a proxy sees, by shard.
pub type Sights = BTreeMap<String, Sight>;

impl Failover {
    /// Says that this proxy is alive, and what it sees, for as long as it runs.
    pub(super) async fn register(&self, store: &Store) {
        loop {
            if let Err(error) = self.stay_registered(store).await {
                tracing::warn!(%error, "other proxies are not told that this one is alive");
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Ends when the lease is lost.
    async fn stay_registered(&self, store: &Store) -> Result<(), StoreError> {
        let name = format!("alive/{}", self.name());
        let Claim::Held(lease) = store.lease(&name, self.name(), store.lease_ttl()).await? else {
            // Our own, which has not ended yet.
            return Ok(());
        };
        let mut views = self.topology.views();
        let mut told: Option<(Sights, Version)> = None;
        loop {
            // Given back before the topology is asked, which may wait for it.
            let view = Arc::clone(&views.borrow_and_update());
            let sights = self.sights(&view);
            if told.as_ref().map(|(known, _)| known) != Some(&sights) {
                let before = told.take().map(|(_, version)| version);
                let version = self.tell(store, &lease, &sights, before).await?;
                told = Some((sights, version));
            }
            tokio::select! {
                // The topology is ours, so there is always a sender.
                _ = views.changed() => {}
                () = lease.lost() => return Ok(()),
            }
        }
    }

    async fn tell(
        &self,
        store: &Store,
        lease: &Lease,
        sights: &Sights,
        before: Option<Version>,
    ) -> Result<Version, StoreError> {
        let key = format!("proxies/{}", self.name());
        let expected = match before {
            Some(version) => Expected::Version(version),
            None => store.get(&key).await?.map(|known| known.version).into(),
        };
        let telling = Transaction::new()
            .under(lease)
            .expect(key.clone(), expected)
            .put(key, record::encode(sights));
        store.commit(telling).await
    }

    /// What this proxy sees now.
    fn sights(&self, view: &View) -> Sights {
        let shards = view.config.shards.iter().zip(&view.shards);
        let sight = |(place, (configured, shard)): (
            usize,
            (&crate::config::Shard, &crate::topology::view::ShardView),
        )| {
            let id = crate::sharding::ShardId(u16::try_from(place).unwrap_or(u16::MAX));
            let sight = match self.topology.known_primary(id) {
                Some(_) => Sight::Up,
                None if shard.nodes.iter().any(|node| node.stage == Stage::Down) => Sight::Down,
                None => Sight::None,
            };
            (configured.name.clone(), sight)
        };
        shards.enumerate().map(sight).collect()
    }

    /// The other proxies that are alive, and what they see. What is left of those that are not is removed.
    pub(super) async fn others(&self, store: &Store) -> Result<Vec<(String, Sights)>, StoreError> {
        let mut others = Vec::new();
        for (key, told) in store.list("proxies/").await? {
            let name = key.trim_start_matches("proxies/");
            if name == self.name() {
                continue;
            }
            match store.holder(&format!("alive/{name}")).await? {
                Some(_) => {
                    let sights = record::decode(&told.value).unwrap_or_default();
                    others.push((name.to_owned(), sights));
                }
                // Somebody else may have removed it already.
                None => drop(store.delete_if(&key, told.version).await),
            }
        }
        Ok(others)
    }
}
