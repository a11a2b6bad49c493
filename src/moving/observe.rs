//! The world as a driver sees it before a step: shards, streams, proxies, the control store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::driver::Project;
use super::ledger::OnShard;
use super::look::{Asked, StreamRow};
use super::records::{self, Known, ProxyRecord};
use super::scope::Scope;
use super::shards::{Connection, ShardError, Shards};
use super::tasks::Tasks;
use crate::resharding::job::{
    GateFact, Job, MapEpoch, MapFact, Moment, Observed, Phase, ProxyFact, Route, ShardFact,
    ShardName, Slot, Stage, StreamFact, Trouble,
};

/// How long a shard may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two attempts to reach a shard that could not be.
const AGAIN: Duration = Duration::from_millis(500);
/// Between two looks for the leases of proxies that are waited for.
const LEASES: Duration = Duration::from_millis(100);
/// Of the log that a server keeps for a slot at most, the part that may be used up.
const PART_OF_LIMIT: u64 = 80;

/// What a driver needs to look, and to give orders.
pub struct View {
    shards: Shards,
    connections: BTreeMap<ShardName, Arc<Connection>>,
    /// Shards that could not be reached, and when they are tried again.
    away: BTreeMap<ShardName, Instant>,
    /// Bytes of log that a server keeps for a slot at most.
    limits: BTreeMap<ShardName, Option<u64>>,
    /// When leases were last asked for, and those that had ended.
    leases: Option<Instant>,
    lapsed: BTreeSet<Box<str>>,
}

impl View {
    pub fn new(shards: Shards) -> View {
        View {
            shards,
            connections: BTreeMap::new(),
            away: BTreeMap::new(),
            limits: BTreeMap::new(),
            leases: None,
            lapsed: BTreeSet::new(),
        }
    }

    /// A connection to the shard's primary for questions and orders, if there is one.
    pub fn connection(&self, shard: &ShardName) -> Option<Arc<Connection>> {
        self.connections.get(shard).cloned()
    }

    /// All that can be seen now.
    pub async fn at(
        &mut self,
        project: &Project,
        known: &Known,
        job: &Job,
        scope: &Scope,
        tasks: &mut Tasks,
    ) -> Observed {
        let mut seen = Observed {
            now: Moment(records::milliseconds()),
            map: Some(MapFact {
                epoch: MapEpoch(known.map.epoch),
                side: known.side(job),
            }),
            gate: known.gates.get(&project.plan).and_then(|gate| {
                let own = gate.number == job.plan.number;
                own.then(|| GateFact {
                    term: gate.term,
                    state: gate.state(),
                })
            }),
            proxies: None,
            check: tasks.check(),
            ..Observed::default()
        };
        let troubles = tasks.take_troubles().into_iter().map(Trouble::Other);
        seen.troubles.extend(troubles);
        seen.proxies = self.proxies(project, known, job).await;
        let lapsed = !self.lapsed.is_empty();
        if job.objects.is_empty() {
            return seen;
        }
        self.connect(job).await;
        let asked = job.objects.iter().filter_map(|(shard, objects)| {
            let connection = self.connections.get(shard)?;
            let asked = asked_of(job);
            Some(async move {
                let ledger = OnShard {
                    client: connection,
                    scope,
                    shard,
                };
                let said = timeout(PATIENCE, ledger.look(objects, &asked)).await;
                (shard.clone(), said)
            })
        });
        let asked: Vec<_> = asked.collect();
        for (shard, said) in join_all(asked).await {
            match said {
                Ok(Ok(said)) => {
                    let limit = self.limits.get(&shard).copied().flatten();
                    note(&mut seen, shard, said, limit, tasks, lapsed);
                }
                failed => {
                    if let Ok(Err(error)) = failed {
                        tracing::warn!(%shard, %error, "a shard cannot be seen");
                    }
                    self.connections.remove(&shard);
                }
            }
        }
        seen
    }

    /// What proxies say. A word is as good as a lease: only of those that are waited for it is asked whether they live.
    async fn proxies(
        &mut self,
        project: &Project,
        known: &Known,
        job: &Job,
    ) -> Option<BTreeMap<Box<str>, ProxyFact>> {
        let mut facts: BTreeMap<Box<str>, ProxyFact> = { known.proxies.iter() }
            .map(|(name, record)| (name.clone(), fact_of(job, &project.plan, record)))
            .collect();
        let awaited = |fact: &ProxyFact| match &job.phase {
            Phase::Turning(turn) => match turn.stage {
                Stage::Gating | Stage::Fencing => fact.gate != Some(job.term) || !fact.drained,
                _ => false,
            },
            Phase::Ending(_) => fact.epoch < job.epoch,
            _ => false,
        };
        let awaited: Vec<Box<str>> = { facts.iter() }
            .filter(|(_, fact)| awaited(fact))
            .map(|(name, _)| name.clone())
            .collect();
        if awaited.is_empty() {
            self.leases = None;
            self.lapsed.clear();
        } else if self.leases.is_none_or(|asked| asked.elapsed() >= LEASES) {
            let holders = awaited.iter().map(async |name| {
                let holder = project.store.holder(&records::proxy_lease(name)).await;
                holder.map(|holder| holder.is_none().then(|| name.clone()))
            });
            let lapsed: Result<Vec<_>, _> = join_all(holders).await.into_iter().collect();
            self.lapsed = lapsed.ok()?.into_iter().flatten().collect();
            self.leases = Some(Instant::now());
        }
        for name in &self.lapsed {
            if let Some(fact) = facts.get_mut(name) {
                fact.lease_live = false;
            }
        }
        Some(facts)
    }

    /// Reaches the shards of the plan that are not connected.
    async fn connect(&mut self, job: &Job) {
        self.connections
            .retain(|_, connection| !connection.is_closed());
        let now = Instant::now();
        self.away.retain(|_, until| *until > now);
        let missing = job.objects.keys().filter(|shard| {
            !self.connections.contains_key(*shard) && !self.away.contains_key(*shard)
        });
        let shards = &self.shards;
        let dials = missing.map(|shard| async move { (shard.clone(), dial(shards, shard).await) });
        for (shard, opened) in join_all(dials).await {
            match opened {
                Ok((connection, limit)) => {
                    self.limits.insert(shard.clone(), limit);
                    self.connections.insert(shard, Arc::new(connection));
                }
                Err(error) => {
                    tracing::warn!(%shard, %error, "a shard cannot be reached");
                    self.away.insert(shard, now + AGAIN);
                }
            }
        }
    }
}

/// A connection, and how much log the server keeps for a slot at most.
async fn dial(shards: &Shards, shard: &ShardName) -> Result<(Connection, Option<u64>), ShardError> {
    let connection = shards.open(shard).await?;
    let asked = "SELECT pg_catalog.pg_size_bytes(s.setting || 'MB') FROM pg_catalog.pg_settings s
        WHERE s.name = 'max_slot_wal_keep_size' AND s.setting <> '-1'";
    let row = connection.query_opt(asked, &[]).await?;
    let limit = row.map(|row| row.get::<_, i64>(0).unsigned_abs());
    Ok((connection, limit))
}

/// What is looked for on every shard besides, in this phase.
fn asked_of(job: &Job) -> Asked {
    let mut asked = Asked::default();
    match &job.phase {
        Phase::Turning(turn) => {
            asked.hastily = true;
            asked.strangers.insert(turn.to.other().keys());
        }
        Phase::Ending(_) => {
            asked.rows.insert(job.owner.other().keys());
        }
        _ => {}
    }
    asked
}

fn note(
    seen: &mut Observed,
    shard: ShardName,
    (mut fact, streams): (ShardFact, Vec<(ShardName, StreamRow)>),
    limit: Option<u64>,
    tasks: &Tasks,
    lapsed: bool,
) {
    // While all that live have come to their end, whoever is still at work there is one of the others.
    fact.strangers &= lapsed;
    if let Slot::There { retained } = fact.slot {
        tasks.note_retained(&shard, retained);
        if limit.is_some_and(|limit| retained > limit / 100 * PART_OF_LIMIT) {
            let shard = shard.clone();
            seen.troubles.push(Trouble::WalLimit { shard });
        }
    }
    for (source, row) in streams {
        let stream = Route {
            from: source,
            to: shard.clone(),
        };
        let fact = StreamFact {
            copied: row.copied,
            caught_up: tasks.is_caught_up(&stream),
            fence_applied: row.fence_applied,
            verified: row.verified,
        };
        seen.streams.insert(stream, fact);
    }
    seen.shards.insert(shard, fact);
}

fn fact_of(job: &Job, plan: &str, record: &ProxyRecord) -> ProxyFact {
    let kept = record.gates.get(plan);
    let kept = kept.filter(|kept| kept.number == job.plan.number);
    ProxyFact {
        lease_live: true,
        gate: kept.map(|kept| kept.term),
        drained: kept.is_some_and(|kept| kept.drained),
        epoch: MapEpoch(record.epoch),
    }
}
