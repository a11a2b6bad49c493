//! Replacing a primary that is lost: under a lease, by the word of more than half of the proxies, and never before the old one is fenced.
//!
//! What is in the store, and the lease, keep two proxies from doing it at once or soon after each other; that a replica still hears from its primary
//! keeps a proxy that is cut off from doing it at all. Before a node is told, the store itself confirms the lease.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, sleep};

use super::hook;
use super::program::{self, Concern};
use super::record::{self, Place, Promotion, Sight, Stage, Switchover};
use super::switchover::LONGEST_PROMOTION;
use super::{Failover, address};
use crate::config::{Config, FailoverMode, Fence};
use crate::sharding::ShardId;
use crate::store::{Expected, Lease, Store, StoreError, Transaction, Version};
use crate::topology::promotion::{Candidate, NotChosen, Outcome, Remedy, Wanted, choose};
use crate::topology::view::{self, NodePlace, ShardView, View};
use crate::topology::{NodeError, NodeStatus, Role, Timeline};

/// How often it is looked whether a shard has lost its primary.
const LOOK: Duration = Duration::from_millis(100);
/// Between two attempts of which the first had no reason to wait longer.
const AGAIN: Duration = Duration::from_secs(1);

/// Why a lost primary is not replaced, now.
#[derive(Debug, thiserror::Error)]
enum NotPromoted {
    #[error("the control store: {0}")]
    Store(#[from] StoreError),
    #[error("{0} sees to it")]
    Elsewhere(String),
    #[error("the last attempt was less than promote_pause ago; the next one may be in {0:?}")]
    Pause(Duration),
    #[error("{0} answers")]
    Answers(String),
    #[error("{down} of {all} proxies say that the primary is down; more than half of them must")]
    NoQuorum { down: usize, all: usize },
    #[error(transparent)]
    NotChosen(#[from] NotChosen),
    #[error("{0} may have been told before to be the primary, and cannot be asked")]
    Uncertain(Place),
    #[error("a switchover to {0} has gone too far to be undone, and is brought to its end first")]
    Switching(Place),
    #[error("the old primary could not be fenced: {0}")]
    NotFenced(String),
    #[error("the lease was lost")]
    LeaseLost,
    #[error("{node}: {reason}")]
    Node { node: String, reason: String },
}

/// What is remembered of a shard from look to look.
#[derive(Default)]
struct Watched {
    /// Who was the primary last.
    primary: Option<Place>,
    /// Not before.
    next: Option<Instant>,
    /// The last reason that was logged.
    told: String,
}

impl Failover {
    /// Replaces primaries that are lost, where the configuration says so. Never ends by itself.
    pub(super) async fn promote(&self, store: &Store) {
        let views = self.topology.views();
        let mut shards: HashMap<String, Watched> = HashMap::new();
        loop {
            sleep(LOOK).await;
            let view = Arc::clone(&views.borrow());
            for (place, shard) in view.config.shards.iter().enumerate() {
                let Ok(number) = u16::try_from(place) else {
                    continue;
                };
                let watched = shards.entry(shard.name.clone()).or_default();
                self.attend_to(store, &view, ShardId(number), watched).await;
            }
        }
    }

    async fn attend_to(&self, store: &Store, view: &View, shard: ShardId, watched: &mut Watched) {
        let config = &view.config;
        if let Some(primary) = self.topology.known_primary(shard) {
            watched.primary = Place::of(config, shard, primary);
            watched.told.clear();
            return;
        }
        let due = watched.next.is_none_or(|next| next <= Instant::now());
        if config.failover.mode != FailoverMode::Promote || !due {
            return;
        }
        let Some(old) = lost(config, view, shard, watched.primary.as_ref()) else {
            return;
        };
        let name = config.shards[shard.index()].name.clone();
        let Some(_driven) = self.drive(&name) else {
            return;
        };
        match self.replace(store, config, shard, old).await {
            Ok(new) => {
                self.topology.promotions().add(Outcome::Promoted);
                tracing::warn!(shard = name, node = %new, "a replica was promoted");
            }
            Err(reason) => {
                let pause = match reason {
                    NotPromoted::NotFenced(_) | NotPromoted::Node { .. } => {
                        config.failover.promote_pause
                    }
                    _ => AGAIN,
                };
                watched.next = Some(Instant::now() + pause);
                let told = reason.to_string();
                if !matches!(reason, NotPromoted::Pause(_) | NotPromoted::Elsewhere(_))
                    && watched.told != told
                {
                    self.topology.promotions().add(Outcome::NotPromoted);
                    tracing::error!(
                        shard = name,
                        error = told,
                        "the primary is lost, and nothing is promoted"
                    );
                    watched.told = told;
                }
            }
        }
    }

    async fn replace(
        &self,
        store: &Store,
        config: &Config,
        shard: ShardId,
        old: NodePlace,
    ) -> Result<Place, NotPromoted> {
        let name = &config.shards[shard.index()].name;
        let lease = self
            .claim(store, name)
            .await?
            .map_err(NotPromoted::Elsewhere)?;
        let ended = self.replace_under(store, &lease, config, shard, old).await;
        lease.release().await;
        ended
    }

    async fn replace_under(
        &self,
        store: &Store,
        lease: &Lease,
        config: &Config,
        shard: ShardId,
        old: NodePlace,
    ) -> Result<Place, NotPromoted> {
        let name = &config.shards[shard.index()].name;
        let left = store.get(&Switchover::key(name)).await?;
        let left = left.and_then(|left| record::decode::<Switchover>(&left.value));
        if let Some(left) = left.filter(|left| left.phase.remedy() == Remedy::Finish) {
            return Err(NotPromoted::Switching(left.new));
        }
        let key = Promotion::key(name);
        let found = store.get(&key).await?;
        let last = found
            .as_ref()
            .and_then(|found| record::decode::<Promotion>(&found.value));
        if let Some(rest) = last
            .as_ref()
            .and_then(|last| rest(last, config.failover.promote_pause))
        {
            return Err(NotPromoted::Pause(rest));
        }
        self.is_gone(config, shard, old).await?;
        self.quorum(store, name).await?;
        let (new, _) = self.chosen(config, shard, old, last.as_ref()).await?;
        let place =
            |node| Place::of(config, shard, node).expect("it is a place in this configuration");
        let mut record = Promotion {
            at: now(),
            old: place(old),
            new: place(new),
            stage: Stage::Fencing,
            by: self.name().to_owned(),
        };
        let version = found.map(|found| found.version);
        let version = note(store, lease, &key, version.into(), &record).await?;
        tracing::warn!(shard = name, old = %record.old, new = %record.new, "the primary is lost: it is fenced, and a replica promoted");
        self.fence(config, name, &record).await?;
        // It cannot write any more, and what it wrote last may have come to another one.
        let (new, lost) = self.chosen(config, shard, old, last.as_ref()).await?;
        record.new = place(new);
        record.stage = Stage::Promoting;
        let failed = |error: &dyn std::fmt::Display| NotPromoted::Node {
            node: place(new).to_string(),
            reason: error.to_string(),
        };
        let visit = self
            .topology
            .visit(shard, new, config.pool.connect_timeout)
            .await;
        let visit = visit.map_err(|error| failed(&error))?;
        // The store refuses this when the lease is somebody else's.
        let version = note(store, lease, &key, Expected::Version(version), &record).await?;
        if !lease.is_held() {
            return Err(NotPromoted::LeaseLost);
        }
        let promoted = visit.promote(Instant::now() + LONGEST_PROMOTION).await;
        promoted.map_err(|error| failed(&error))?;
        tracing::warn!(shard = name, node = %record.new, lacks_bytes = lost, "promoted; it may lack this much of what its primary was seen to have written");
        self.see_primary(shard, new)
            .await
            .map_err(|error| failed(&error))?;
        record.stage = Stage::Done;
        if let Err(error) = note(store, lease, &key, Expected::Version(version), &record).await {
            tracing::warn!(shard = name, %error, "the store was not told that a promotion has ended");
        }
        self.repoint(config, shard, old, new, &visit).await;
        Ok(record.new)
    }

    /// Makes sure by an attempt of its own that nobody answers there.
    async fn is_gone(
        &self,
        config: &Config,
        shard: ShardId,
        old: NodePlace,
    ) -> Result<(), NotPromoted> {
        let visited = async {
            let visit = self
                .topology
                .visit(shard, old, config.health.timeout)
                .await?;
            visit.is_recovering().await
        };
        let node = address(&config.shards[shard.index()].nodes[old.0]);
        match visited.await {
            Ok(_) => Err(NotPromoted::Answers(node)),
            // A server that refuses us is there, and so may be its other clients.
            Err(NodeError::Postgres(error)) if error.as_db_error().is_some() => {
                let said = NodeError::described(&error);
                Err(NotPromoted::Answers(format!("{node} ({said})")))
            }
            Err(_) => Ok(()),
        }
    }

    /// More than half of the proxies of this shard, ours among them, must see what we see.
    async fn quorum(&self, store: &Store, shard: &str) -> Result<(), NotPromoted> {
        let others = self.others(store).await?;
        let sights: Vec<Sight> = others
            .iter()
            .filter_map(|(_, sights)| sights.get(shard).copied())
            .collect();
        let down = 1 + sights.iter().filter(|sight| **sight == Sight::Down).count();
        let all = 1 + sights.len();
        match down * 2 > all {
            true => Ok(()),
            false => Err(NotPromoted::NoQuorum { down, all }),
        }
    }

    /// Asks all replicas anew. The best one, and what it lacks in bytes.
    async fn chosen(
        &self,
        config: &Config,
        shard: ShardId,
        old: NodePlace,
        last: Option<&Promotion>,
    ) -> Result<(NodePlace, u64), NotPromoted> {
        let statuses = self.topology.nodes();
        let view = self.topology.views().borrow().clone();
        let seen = view.shard(shard);
        let places = replicas(config, shard, old, seen, &statuses);
        let ask = |place: NodePlace| async move {
            let node = &config.shards[shard.index()].nodes[place.0];
            let asked = async {
                let visit = self
                    .topology
                    .visit(shard, place, config.health.timeout)
                    .await?;
                visit.replica_facts().await
            };
            Candidate {
                name: address(node),
                facts: asked.await.map_err(|error| error.to_string()),
                preference: node.weight,
            }
        };
        let candidates =
            futures_util::future::join_all(places.iter().map(|place| ask(*place))).await;
        if let Some(told) = last
            .filter(|last| last.stage == Stage::Promoting)
            .map(|last| &last.new)
        {
            let name = told.to_string();
            let answers = |candidate: &Candidate| candidate.name == name && candidate.facts.is_ok();
            if !candidates.iter().any(answers) {
                return Err(NotPromoted::Uncertain(told.clone()));
            }
        }
        let fall = u32::try_from(config.health.fall).unwrap_or(u32::MAX);
        let wanted = Wanted {
            missing: config.failover.missing_replicas,
            max_loss: config.failover.max_loss.map(|size| size.0),
            newest: newest(&config.shards[shard.index()].name, &statuses),
            written: seen
                .and_then(|seen| seen.written.last())
                .map(|mark| mark.lsn),
            silence: config.health.interval.saturating_mul(fall),
        };
        let (best, lost) = choose(&candidates, wanted)?;
        Ok((places[best], lost))
    }

    async fn fence(
        &self,
        config: &Config,
        shard: &str,
        record: &Promotion,
    ) -> Result<(), NotPromoted> {
        let concern = Concern {
            shard: shard.to_owned(),
            old: record.old.to_string(),
            new: record.new.to_string(),
        };
        let limit = config.failover.fence_timeout;
        let fenced = match &config.failover.fence {
            Fence::Command(argv) => program::run(argv, &concern, limit).await,
            Fence::Hook(url) => {
                hook::call(url, config.failover.tls.as_ref(), &concern, limit).await
            }
            Fence::Nothing => Ok(()),
            Fence::Undecided => Err(
                "there is no fence_command and no fence_url, and fence is not \"none\"".to_owned(),
            ),
        };
        fenced.map_err(NotPromoted::NotFenced)
    }
}

/// Who was the primary of a shard that has none because that one does not answer.
fn lost(config: &Config, view: &View, shard: ShardId, last: Option<&Place>) -> Option<NodePlace> {
    let seen = view.shard(shard)?;
    let is_down = |place: NodePlace| {
        let node = seen.nodes.get(place.0);
        node.is_some_and(|node| node.stage == view::Stage::Down)
    };
    match last {
        Some(last) => last.find(config, shard).filter(|place| is_down(*place)),
        // Nobody has seen one. It can only be the one that nobody can ask.
        None => {
            let mut down = (0..seen.nodes.len())
                .map(NodePlace)
                .filter(|place| is_down(*place));
            down.next().filter(|_| down.next().is_none())
        }
    }
}

/// Those that may have what the primary had: all but itself, those of another system, and those that were a primary themselves.
fn replicas(
    config: &Config,
    shard: ShardId,
    old: NodePlace,
    seen: Option<&ShardView>,
    statuses: &[NodeStatus],
) -> Vec<NodePlace> {
    let configured = &config.shards[shard.index()];
    let is_replica = |place: &NodePlace| {
        let node = &configured.nodes[place.0];
        let stage = seen
            .and_then(|seen| seen.nodes.get(place.0))
            .map(|node| node.stage);
        let is_out = stage == Some(view::Stage::Refused);
        let mut statuses = statuses.iter();
        let is_it = |status: &&NodeStatus| {
            status.shard == configured.name && status.host == node.host && status.port == node.port
        };
        let was_primary = statuses
            .find(is_it)
            .is_some_and(|status| status.role == Role::Primary);
        *place != old && !is_out && !was_primary
    };
    (0..configured.nodes.len())
        .map(NodePlace)
        .filter(is_replica)
        .collect()
}

/// The greatest timeline on which a node of the shard was seen.
fn newest(shard: &str, statuses: &[NodeStatus]) -> Option<Timeline> {
    let is_of_it =
        |status: &&NodeStatus| status.shard == shard && status.stage != view::Stage::Refused;
    let of_shard = statuses.iter().filter(is_of_it);
    of_shard.filter_map(|status| status.timeline).max()
}

/// How long a next attempt must still wait.
fn rest(last: &Promotion, pause: Duration) -> Option<Duration> {
    let since = Duration::from_secs(now().saturating_sub(last.at));
    pause.checked_sub(since).filter(|rest| !rest.is_zero())
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

async fn note(
    store: &Store,
    lease: &Lease,
    key: &str,
    expected: Expected,
    record: &Promotion,
) -> Result<Version, StoreError> {
    let noting = Transaction::new()
        .under(lease)
        .expect(key, expected)
        .put(key, record::encode(record));
    store.commit(noting).await
}
