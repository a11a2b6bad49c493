//! A switchover, from the first step to the last, or back.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::program::{self, Concern};
use super::record::{self, Place, Switchover};
use super::{Driven, Failover, address};
use crate::config::Config;
use crate::sharding::ShardId;
use crate::store::{Expected, Lease, Store, StoreError, Transaction, Version};
use crate::topology::Lsn;
use crate::topology::promotion::{
    Done, NotSwitched, Outcome, Phase, Refusal, Remedy, Repointed, Step, Undone, Visit, may_switch,
};
use crate::topology::view::{NodePlace, Stage};

/// Between two looks at whether something has happened.
const POLL: Duration = Duration::from_millis(5);
/// How long a node may take to be the primary once it was told.
pub(super) const LONGEST_PROMOTION: Duration = Duration::from_secs(60);
/// How long it may take until it is seen to be.
pub(super) const LONGEST_LOOK: Duration = Duration::from_secs(10);

/// One switchover, driven by this process.
struct Drive<'a> {
    failover: &'a Failover,
    store: Store,
    config: Arc<Config>,
    shard: ShardId,
    old: NodePlace,
    new: NodePlace,
    record: Switchover,
    /// Of the record in the store, when it is there.
    version: Option<Version>,
    lease: Lease,
    old_visit: Visit,
    new_visit: Visit,
    /// Covers everything that was ever committed on the old primary; known once it takes no writes.
    written: Lsn,
    /// When clients began to wait.
    gated: Instant,
    _driven: Driven<'a>,
}

/// What a step has to say: whom it concerned, and what was done.
type Said = (String, String);

impl Failover {
    /// Makes a replica the primary while the primary is well. `node` is its host and port.
    pub async fn switchover(&self, shard: &str, node: &str) -> Result<Vec<Done>, NotSwitched> {
        let begun = Instant::now();
        let ended = async {
            let drive = self.prepare(shard, node).await?;
            drive.run(begun).await
        };
        let ended = ended.await;
        let outcome = match &ended {
            Ok(_) => Outcome::Switched,
            Err(error) => {
                tracing::error!(shard, node, %error, "there was no switchover");
                Outcome::NotSwitched
            }
        };
        self.topology.promotions().add(outcome);
        ended
    }

    /// The first step: nothing is changed.
    async fn prepare(&self, shard: &str, node: &str) -> Result<Drive<'_>, NotSwitched> {
        let config = self.topology.config();
        let id = record::shard(&config, shard).ok_or_else(|| Refusal::NoShard(shard.to_owned()))?;
        let (old, new) = self.places(&config, id, node)?;
        let under_way = || NotSwitched::UnderWay("this proxy".to_owned());
        let driven = self.drive(shard).ok_or_else(under_way)?;
        let store_error = |error: StoreError| NotSwitched::Store(error.to_string());
        let store = self.store().await.map_err(store_error)?;
        let lease = self
            .claim(&store, shard)
            .await
            .map_err(store_error)?
            .map_err(NotSwitched::UnderWay)?;
        let key = Switchover::key(shard);
        if let Some(left) = store.get(&key).await.map_err(store_error)? {
            let by = record::decode::<Switchover>(&left.value).map(|left| left.by);
            return Err(NotSwitched::UnderWay(by.unwrap_or_default()));
        }
        let named = |place: NodePlace| address(&config.shards[id.index()].nodes[place.0]);
        let limit = config.failover.switchover_timeout;
        let visit = async |place: NodePlace| {
            let begun = self.topology.visit(id, place, limit).await;
            begun.map_err(|error| unreachable(named(place), &error))
        };
        let (old_visit, new_visit) = (visit(old).await?, visit(new).await?);
        let primary = old_visit.primary_facts().await;
        let primary = primary.map_err(|error| unreachable(named(old), &error))?;
        let replica = new_visit.replica_facts().await;
        let replica = replica.map_err(|error| unreachable(named(new), &error))?;
        may_switch(&named(old), &primary, &named(new), &replica)?;
        let place =
            |node| Place::of(&config, id, node).expect("both were found in this configuration");
        let record = Switchover {
            id: format!("{}-{:016x}", self.name(), rand::random::<u64>()),
            shard: shard.to_owned(),
            old: place(old),
            new: place(new),
            phase: Phase::Gated,
            configured: primary.configured,
            by: self.name().to_owned(),
        };
        Ok(Drive {
            failover: self,
            store,
            shard: id,
            old,
            new,
            record,
            version: None,
            lease,
            old_visit,
            new_visit,
            written: primary.written,
            gated: Instant::now(),
            config,
            _driven: driven,
        })
    }

    /// The primary and the node of this address, as far as what is known of them allows.
    fn places(
        &self,
        config: &Config,
        shard: ShardId,
        node: &str,
    ) -> Result<(NodePlace, NodePlace), Refusal> {
        let configured = &config.shards[shard.index()];
        if configured.nodes.iter().any(|node| node.patroni.is_some()) {
            return Err(Refusal::Patroni(configured.name.clone()));
        }
        let new = configured
            .nodes
            .iter()
            .position(|known| address(known) == node);
        let new = new.ok_or_else(|| Refusal::NoNode {
            shard: configured.name.clone(),
            node: node.to_owned(),
        })?;
        let view = self.topology.views().borrow().clone();
        let seen = view.shard(shard);
        let old = seen
            .and_then(|seen| seen.primary)
            .ok_or_else(|| Refusal::NoPrimary {
                shard: configured.name.clone(),
                trouble: seen
                    .and_then(|seen| seen.trouble.as_deref().map(str::to_owned))
                    .unwrap_or_default(),
            })?;
        if old.0 == new {
            return Err(Refusal::IsPrimary(node.to_owned()));
        }
        let stage = seen
            .and_then(|seen| seen.nodes.get(new))
            .map(|node| node.stage);
        match stage {
            Some(Stage::Up | Stage::Lagging) => {}
            other => {
                return Err(Refusal::NotUp {
                    node: node.to_owned(),
                    stage: other.unwrap_or(Stage::Unknown),
                });
            }
        }
        for place in [old.0, new] {
            let name = address(&configured.nodes[place]);
            let has_it = |shard: &&crate::config::Shard| {
                shard.nodes.iter().any(|other| address(other) == name)
            };
            let shards: Vec<_> = config
                .shards
                .iter()
                .filter(has_it)
                .map(|shard| &*shard.name)
                .collect();
            if shards.len() > 1 {
                let shards = shards.join(", ");
                return Err(Refusal::SharedServer { node: name, shards });
            }
        }
        Ok((old, NodePlace(new)))
    }

    /// Has the other replicas of a shard follow its new primary. What became of each.
    pub(super) async fn repoint(
        &self,
        config: &Config,
        shard: ShardId,
        old: NodePlace,
        new: NodePlace,
        primary: &Visit,
    ) -> Vec<Said> {
        let nodes = &config.shards[shard.index()].nodes;
        let target = &nodes[new.0];
        let mut said = Vec::new();
        for (place, node) in nodes.iter().enumerate() {
            if place == old.0 || place == new.0 {
                continue;
            }
            let limit = config.pool.connect_timeout;
            let asked = async {
                let visit = self.topology.visit(shard, NodePlace(place), limit).await?;
                visit.follow(primary, &target.host, target.port).await
            };
            let detail = match asked.await {
                Ok(Repointed::Yes) => format!("follows {}", address(target)),
                Ok(Repointed::NotStandby) => "is not a standby: left as it is".to_owned(),
                Ok(Repointed::No(why)) => format!("not pointed to {}: {why}", address(target)),
                Err(error) => format!("not pointed to {}: {error}", address(target)),
            };
            tracing::info!(
                shard = config.shards[shard.index()].name,
                node = address(node),
                "replica {detail}"
            );
            said.push((address(node), detail));
        }
        said
    }

    /// Waits until a node is seen to be the primary.
    pub(super) async fn see_primary(&self, shard: ShardId, node: NodePlace) -> Result<(), String> {
        let deadline = Instant::now() + LONGEST_LOOK;
        loop {
            self.topology.look_at(shard, node).await;
            if self.topology.known_primary(shard) == Some(node) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err("it is not seen to be the primary".to_owned());
            }
            sleep(POLL).await;
        }
    }
}

impl Drive<'_> {
    async fn run(mut self, begun: Instant) -> Result<Vec<Done>, NotSwitched> {
        let mut done = vec![Done {
            step: Step::FIRST,
            node: self.name(self.new),
            took: begun.elapsed(),
            detail: format!("a replica of {} on the same timeline", self.name(self.old)),
        }];
        let mut step = Step::FIRST.next();
        while let Some(now) = step {
            let begun = Instant::now();
            let said = match self.enter(now).await {
                Ok(()) => self.take(now).await,
                Err(error) => Err(format!("the control store: {error}")),
            };
            match said {
                Ok(said) => done.extend(said.into_iter().map(|(node, detail)| Done {
                    step: now,
                    node,
                    took: begun.elapsed(),
                    detail,
                })),
                Err(reason) => return Err(self.go_back(now, reason).await),
            }
            step = now.next();
        }
        self.lease.release().await;
        Ok(done)
    }

    fn name(&self, node: NodePlace) -> String {
        address(&self.config.shards[self.shard.index()].nodes[node.0])
    }

    /// Writes down what somebody else would have to do from this step on. The store refuses it when the lease is lost.
    async fn enter(&mut self, step: Step) -> Result<(), StoreError> {
        let key = Switchover::key(&self.record.shard);
        match (step.phase(), self.version) {
            (Some(phase), Some(_)) if phase == self.record.phase => Ok(()),
            (Some(phase), version) => {
                self.record.phase = phase;
                let writing = Transaction::new()
                    .under(&self.lease)
                    .expect(key.clone(), Expected::from(version))
                    .put(key, record::encode(&self.record));
                self.version = Some(self.store.commit(writing).await?);
                Ok(())
            }
            (None, Some(version)) => {
                let erasing = Transaction::new()
                    .under(&self.lease)
                    .expect(key.clone(), Expected::Version(version))
                    .delete(key);
                self.version = None;
                // It is over all the same; what is left is found to be so.
                if let Err(error) = self.store.commit(erasing).await {
                    tracing::warn!(shard = self.record.shard, %error, "the record of a switchover is left behind");
                }
                Ok(())
            }
            (None, None) => Ok(()),
        }
    }

    async fn take(&mut self, step: Step) -> Result<Vec<Said>, String> {
        let (old, new) = (self.name(self.old), self.name(self.new));
        let limit = self.config.failover.switchover_timeout;
        let deadline = Instant::now() + limit;
        tracing::info!(
            shard = self.record.shard,
            from = old,
            to = new,
            step = step.as_str(),
            "switchover"
        );
        let said = |node: &str, detail: String| Ok(vec![(node.to_owned(), detail)]);
        match step {
            Step::Check => Ok(Vec::new()),
            Step::Gate => {
                self.gated = Instant::now();
                self.failover.gate(self.shard, self.old);
                said(&old, "statements wait".to_owned())
            }
            Step::Quiet => {
                self.quiet(deadline).await?;
                said(
                    &old,
                    "nothing is lent, and no transaction is open".to_owned(),
                )
            }
            Step::Fence => {
                let stopped = self.old_visit.stop_writes(deadline).await;
                self.written = stopped.map_err(|error| error.to_string())?;
                said(
                    &old,
                    format!("takes no writes; its log ends at {}", self.written),
                )
            }
            Step::CatchUp => {
                let replayed = self.new_visit.replayed(self.written, deadline).await;
                replayed.map_err(|error| error.to_string())?;
                said(&new, format!("has replayed {}", self.written))
            }
            Step::Promote => {
                if !self.lease.is_held() {
                    return Err("the lease was lost".to_owned());
                }
                let deadline = Instant::now() + LONGEST_PROMOTION;
                let promoted = self.new_visit.promote(deadline).await;
                promoted.map_err(|error| error.to_string())?;
                said(&new, "is the primary".to_owned())
            }
            Step::Open => {
                self.failover.see_primary(self.shard, self.new).await?;
                self.failover.topology.set_gate(self.shard, None);
                let waited = self.gated.elapsed().as_millis();
                said(
                    &new,
                    format!("statements go to it; they have waited for {waited} ms"),
                )
            }
            Step::Repoint => Ok(self
                .failover
                .repoint(
                    &self.config,
                    self.shard,
                    self.old,
                    self.new,
                    &self.new_visit,
                )
                .await),
            Step::Rejoin => Ok(vec![self.rejoin()]),
        }
    }

    /// Waits until no proxy lends anything of the primary, and nobody else has a transaction open there either.
    async fn quiet(&self, deadline: Instant) -> Result<(), String> {
        loop {
            let obstacles = self.obstacles().await?;
            if obstacles.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let limit = self.config.failover.switchover_timeout;
                return Err(format!(
                    "not quiet within {limit:?}: {}",
                    obstacles.join("; ")
                ));
            }
            sleep(POLL).await;
        }
    }

    async fn obstacles(&self) -> Result<Vec<String>, String> {
        let lent = self.failover.lent(self.shard).await;
        let Some(lent) = lent else {
            return Ok(vec!["the workers have not heard of the gate".to_owned()]);
        };
        let mut obstacles: Vec<_> = lent.iter().map(ToString::to_string).collect();
        if obstacles.is_empty() {
            let silent = self.failover.without_gate(&self.store, &self.record).await;
            obstacles = silent.map_err(|error| error.to_string())?;
        }
        if obstacles.is_empty() {
            let busy = self.old_visit.busy().await;
            obstacles = busy.map_err(|error| error.to_string())?;
        }
        Ok(obstacles)
    }

    fn rejoin(&self) -> Said {
        let (old, new) = (self.name(self.old), self.name(self.new));
        let failover = &self.config.failover;
        let Some(argv) = failover.rejoin_command.clone() else {
            let detail =
                format!("gets nothing any more: rebuild it as a standby of {new} (pg_rewind)");
            return (old, detail);
        };
        let limit = failover.rejoin_timeout;
        let concern = Concern {
            shard: self.record.shard.clone(),
            old: old.clone(),
            new,
        };
        tokio::spawn(async move {
            match program::run(&argv, &concern, limit).await {
                Ok(()) => tracing::info!(
                    shard = concern.shard,
                    node = concern.old,
                    "the old primary was made a standby"
                ),
                Err(error) => {
                    tracing::error!(
                        shard = concern.shard,
                        node = concern.old,
                        error,
                        "the old primary is no standby yet"
                    );
                }
            }
        });
        (
            old,
            "rejoin_command was started; what becomes of it is logged".to_owned(),
        )
    }

    /// Does what the failure of a step asks for.
    async fn go_back(self, step: Step, reason: String) -> NotSwitched {
        let undone = match step.remedy() {
            Remedy::Nothing => Undone::Yes,
            // It may not have come to be in this phase: whoever settles it reads the record, and does what that says.
            Remedy::Finish => Undone::Never,
            Remedy::Ungate | Remedy::Unfence => {
                let undoing = self
                    .failover
                    .undo(&self.store, &self.lease, &self.record.shard)
                    .await;
                match undoing {
                    Ok(()) => Undone::Yes,
                    Err(reason) => Undone::NotYet(reason),
                }
            }
        };
        // Whoever comes next takes it from here.
        self.lease.release().await;
        NotSwitched::Failed {
            step,
            reason,
            undone,
        }
    }
}

fn unreachable(node: String, error: &crate::topology::NodeError) -> NotSwitched {
    NotSwitched::Unreachable {
        node,
        reason: error.to_string(),
    }
}
