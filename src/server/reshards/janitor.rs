//! What a plan has left on a shard though it is over: slots that would keep the log for ever, publications, triggers.
//!
//! That can be when a driver that had lost its lease without knowing made something late. Only what belongs to a plan that is over here *and* whose ledger on
//! that shard is closed is removed: another fleet, with another control store, may have plans on the same servers.

use std::time::Duration;

use super::Reshards;
use crate::moving::objects;
use crate::moving::records::{self, PREFIX};
use crate::moving::shards::{ShardError, Shards};
use crate::resharding::job::ShardName;
use crate::store::{Claim, Store};

/// Between two rounds.
const ROUND: Duration = Duration::from_secs(60);

impl Reshards {
    /// Goes round, where nobody else does.
    pub(super) async fn tidy(&self, store: &Store) {
        loop {
            tokio::time::sleep(ROUND).await;
            let lease = match store.lease("janitor", self.name(), store.lease_ttl()).await {
                Ok(Claim::Held(lease)) => lease,
                Ok(Claim::Taken(_)) => continue,
                Err(error) => {
                    tracing::debug!(%error, "what plans may have left is not looked for");
                    continue;
                }
            };
            let config = self.topology.config();
            for database in &config.databases {
                let shards = Shards::new(std::sync::Arc::clone(&self.topology), &database.name);
                for shard in shards.names() {
                    let shard = ShardName(shard);
                    if let Err(error) = self.tidy_shard(store, &shards, &shard).await {
                        tracing::debug!(%shard, %error, "what plans may have left is not looked for");
                    }
                }
            }
            self.forget_the_dead(store).await;
            lease.release().await;
        }
    }

    /// What proxies have said that are no more.
    async fn forget_the_dead(&self, store: &Store) {
        let Ok(Ok(known)) = store
            .list(PREFIX)
            .await
            .map(|listing| records::read(&listing))
        else {
            return;
        };
        for (database, known) in &known {
            for proxy in known.proxies.keys() {
                let key = records::proxy_key(database, proxy);
                // Read before the lease is asked for: a proxy has its lease before it says anything.
                let Ok(Some(said)) = store.get(&key).await else {
                    continue;
                };
                if let Ok(None) = store.holder(&records::proxy_lease(proxy)).await {
                    // It may be back, and have said something new.
                    let _ = store.delete_if(&key, said.version).await;
                }
            }
        }
    }

    async fn tidy_shard(
        &self,
        store: &Store,
        shards: &Shards,
        shard: &ShardName,
    ) -> Result<(), ShardError> {
        let client = shards.open(shard).await?;
        let found = objects::orphans(&client, &[]).await?;
        if found.is_empty() {
            return Ok(());
        }
        // Read behind what was found: a plan is written before anything of it is made.
        let Ok(Ok(known)) = store
            .list(PREFIX)
            .await
            .map(|listing| records::read(&listing))
        else {
            return Ok(());
        };
        let plans = known.values().flat_map(|known| known.plans.values());
        let live = plans.filter(|job| !job.is_over());
        let live: Vec<u64> = live.map(|job| job.plan.number).collect();
        let left = objects::orphans(&client, &live).await?;
        for orphan in left.into_iter().filter(|orphan| found.contains(orphan)) {
            tracing::warn!(%shard, ?orphan, "something that a plan has left is removed");
            objects::remove_orphan(&client, &orphan).await?;
        }
        Ok(())
    }
}
