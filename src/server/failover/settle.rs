//! Switchovers of others: standing before their gates, and ending what they have left.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Failover;
use super::record::{self, Switchover};
use super::switchover::LONGEST_PROMOTION;
use crate::sharding::ShardId;
use crate::store::{Expected, Lease, Listing, Store, StoreError, Transaction};
use crate::topology::promotion::{Phase, Remedy};
use crate::topology::view::NodePlace;

/// How often it is looked whether whoever drives a switchover is still there.
const LOOK: Duration = Duration::from_millis(500);
/// Between two looks at whether nothing is lent any more.
const POLL: Duration = Duration::from_millis(5);
/// A gate of another proxy that does not open by itself is opened after this long: its servers refuse writes by themselves, and reads go on.
const LONGEST_GATE: Duration = Duration::from_secs(60);

/// A gate that this proxy stands before for another one.
struct Standing {
    shard: ShardId,
    id: String,
    new: Option<NodePlace>,
    since: Instant,
    said: bool,
    opened: bool,
}

impl Failover {
    /// Follows the switchovers in the store. Never ends by itself.
    pub(super) async fn follow(&self, store: &Store) {
        let mut gates: HashMap<String, Standing> = HashMap::new();
        loop {
            let mut watch = match store.watch("switchovers/").await {
                Ok(watch) => watch,
                Err(error) => {
                    tracing::warn!(%error, "switchovers of other proxies cannot be followed");
                    tokio::time::sleep(LOOK).await;
                    continue;
                }
            };
            loop {
                let waits = gates.values().any(|gate| !gate.said);
                let pause = if waits { POLL } else { LOOK };
                let listing = match tokio::time::timeout(pause, watch.changed()).await {
                    Ok(listing) => listing,
                    Err(_) => watch.current(),
                };
                self.stand(store, &listing, &mut gates).await;
            }
        }
    }

    /// Brings our gates to what the store says, and settles what nobody drives any more.
    async fn stand(&self, store: &Store, listing: &Listing, gates: &mut HashMap<String, Standing>) {
        let records = listing.iter().filter_map(|(key, found)| {
            let record = record::decode::<Switchover>(&found.value);
            if record.is_none() {
                tracing::error!(
                    key,
                    "the control store holds a switchover that cannot be read"
                );
            }
            record
        });
        let records: Vec<Switchover> = records.collect();
        let over: Vec<String> = gates
            .iter()
            .filter(|(shard, gate)| {
                !records
                    .iter()
                    .any(|record| record.shard == **shard && record.id == gate.id)
            })
            .map(|(shard, _)| shard.clone())
            .collect();
        for shard in over {
            if let Some(gate) = gates.remove(&shard) {
                // Else the old primary would be used until the next look.
                if let Some(new) = gate.new {
                    self.topology.look_at(gate.shard, new).await;
                }
                self.topology.set_gate(gate.shard, None);
            }
        }
        for record in records {
            if self.driven().contains(&record.shard) {
                continue;
            }
            if let Err(error) = self.attend(store, &record, gates).await {
                tracing::warn!(
                    shard = record.shard,
                    error,
                    "a switchover that was left behind is not settled yet"
                );
            }
        }
    }

    async fn attend(
        &self,
        store: &Store,
        record: &Switchover,
        gates: &mut HashMap<String, Standing>,
    ) -> Result<(), String> {
        let config = self.topology.config();
        let Some(shard) = record::shard(&config, &record.shard) else {
            // It is of proxies with other shards.
            return Ok(());
        };
        let old = record.old.find(&config, shard);
        if !gates.contains_key(&record.shard) {
            // What the watch shows may be over: one of our own may just have ended.
            let found = store
                .get(&Switchover::key(&record.shard))
                .await
                .map_err(said)?;
            let now = found.and_then(|found| record::decode::<Switchover>(&found.value));
            if now.is_none_or(|now| now.id != record.id) {
                return Ok(());
            }
        }
        let gate = gates
            .entry(record.shard.clone())
            .or_insert_with(|| Standing {
                shard,
                id: record.id.clone(),
                new: record.new.find(&config, shard),
                since: Instant::now(),
                said: false,
                opened: false,
            });
        if gate.since.elapsed() > LONGEST_GATE && !gate.opened {
            gate.opened = true;
            tracing::error!(
                shard = record.shard,
                "a gate has stood for too long, and is opened"
            );
            self.topology.set_gate(shard, None);
        }
        if let Some(old) = old
            && !gate.opened
            && record.phase != Phase::Undoing
        {
            self.gate(shard, old);
            if !gate.said && self.lent(shard).await.is_some_and(|lent| lent.is_empty()) {
                let key = word(&record.shard, self.name());
                let before = store
                    .get(&key)
                    .await
                    .map_err(said)?
                    .map(|known| known.version);
                store
                    .put_if(&key, before.into(), record.id.as_str())
                    .await
                    .map_err(said)?;
                gate.said = true;
            }
        }
        if store
            .holder(&format!("primary/{}", record.shard))
            .await
            .map_err(said)?
            .is_some()
        {
            return Ok(());
        }
        let Some(_driven) = self.drive(&record.shard) else {
            return Ok(());
        };
        let Ok(lease) = self.claim(store, &record.shard).await.map_err(said)? else {
            return Ok(());
        };
        let settled = self.settle(store, &lease, record, shard).await;
        lease.release().await;
        settled
    }

    /// Ends a switchover whose driver is gone: forward once the node may have been told, else back.
    async fn settle(
        &self,
        store: &Store,
        lease: &Lease,
        seen: &Switchover,
        shard: ShardId,
    ) -> Result<(), String> {
        let key = Switchover::key(&seen.shard);
        // Under the lease it does not change any more.
        let Some(found) = store.get(&key).await.map_err(said)? else {
            return Ok(());
        };
        let record: Switchover = record::decode(&found.value).ok_or("its record cannot be read")?;
        tracing::warn!(shard = record.shard, by = record.by, phase = ?record.phase, "a switchover was left behind");
        if record.phase.remedy() != Remedy::Finish {
            return self.undo(store, lease, &record.shard).await;
        }
        let config = self.topology.config();
        let new = record
            .new
            .find(&config, shard)
            .ok_or("its node has left the configuration")?;
        let visit = self
            .topology
            .visit(shard, new, config.pool.connect_timeout)
            .await
            .map_err(said)?;
        if !lease.is_held() {
            return Err("the lease was lost".to_owned());
        }
        visit
            .promote(Instant::now() + LONGEST_PROMOTION)
            .await
            .map_err(said)?;
        self.see_primary(shard, new).await?;
        self.topology.set_gate(shard, None);
        self.erase(store, lease, &key).await.map_err(said)?;
        tracing::warn!(shard = record.shard, node = %record.new, "the switchover was brought to its end");
        let old = record
            .old
            .find(&config, shard)
            .unwrap_or(NodePlace(usize::MAX));
        self.repoint(&config, shard, old, new, &visit).await;
        Ok(())
    }

    /// Makes everything as it was. Only what was written before the node was told can be undone.
    pub(super) async fn undo(
        &self,
        store: &Store,
        lease: &Lease,
        shard: &str,
    ) -> Result<(), String> {
        let config = self.topology.config();
        let id = record::shard(&config, shard).ok_or("the shard has left the configuration")?;
        let key = Switchover::key(shard);
        let Some(found) = store.get(&key).await.map_err(said)? else {
            self.topology.set_gate(id, None);
            return Ok(());
        };
        let mut record: Switchover =
            record::decode(&found.value).ok_or("its record cannot be read")?;
        let was_told = match record.phase {
            Phase::Promoting => {
                return Err("the node may have been told to be the primary".to_owned());
            }
            Phase::Gated => false,
            Phase::Fencing | Phase::Undoing => true,
        };
        // Whoever drives it still, unknown to us, does not get any further.
        record.phase = match was_told {
            true => Phase::Undoing,
            false => Phase::Gated,
        };
        let marking = Transaction::new()
            .under(lease)
            .expect(key.clone(), Expected::Version(found.version))
            .put(key.clone(), record::encode(&record));
        store.commit(marking).await.map_err(said)?;
        if was_told {
            self.unfence(&record, id).await?;
        }
        self.topology.set_gate(id, None);
        self.erase(store, lease, &key).await.map_err(said)?;
        tracing::warn!(shard, "the switchover was undone");
        Ok(())
    }

    async fn unfence(&self, record: &Switchover, shard: ShardId) -> Result<(), String> {
        let config = self.topology.config();
        let old = record.old.find(&config, shard);
        let gone = || {
            format!(
                "{} has left the configuration; it takes no writes by default",
                record.old
            )
        };
        let old = old.ok_or_else(gone)?;
        let limit = config.pool.connect_timeout;
        let visited = async {
            let visit = self.topology.visit(shard, old, limit).await?;
            visit
                .allow_writes(record.configured.as_deref(), Instant::now() + limit)
                .await
        };
        match visited.await {
            Ok(_) => Ok(()),
            // It has been replaced meanwhile, and must be rebuilt anyway.
            Err(error)
                if self
                    .topology
                    .known_primary(shard)
                    .is_some_and(|place| place != old) =>
            {
                tracing::warn!(shard = record.shard, node = %record.old, %error, "the old primary may still refuse writes when it is back");
                Ok(())
            }
            Err(error) => Err(format!("{}: {error}", record.old)),
        }
    }

    async fn erase(&self, store: &Store, lease: &Lease, key: &str) -> Result<(), StoreError> {
        store
            .commit(Transaction::new().under(lease).delete(key))
            .await?;
        Ok(())
    }

    /// The other proxies that have not said that they stand before the gate.
    pub(super) async fn without_gate(
        &self,
        store: &Store,
        record: &Switchover,
    ) -> Result<Vec<String>, StoreError> {
        let mut silent = Vec::new();
        for (name, sights) in self.others(store).await? {
            if !sights.contains_key(&record.shard) {
                continue;
            }
            let word = store.get(&word(&record.shard, &name)).await?;
            if word.is_none_or(|word| word.value != record.id.as_bytes()) {
                silent.push(format!(
                    "the proxy {name} has not said that it holds its clients back"
                ));
            }
        }
        Ok(silent)
    }
}

/// Where a proxy says that nothing is lent.
fn word(shard: &str, proxy: &str) -> String {
    format!("gated/{shard}/{proxy}")
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}
