//! The world as a driver sees it before a step: shards, streams, proxies, the control store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::driver::Project;
use super::ledger::OnShard;
use super::look::{Asked, StreamRow, Triggers};
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
/// The same while clients wait for the end of a turn, and at least.
const HASTY: Duration = Duration::from_secs(2);
const LEAST: Duration = Duration::from_secs(1);
/// Between two attempts to reach a shard that could not be.
const AGAIN: Duration = Duration::from_millis(500);
/// Between two looks for the leases of proxies that are waited for.
const LEASES: Duration = Duration::from_millis(100);
/// Of the log that a server keeps for a slot at most, the part that may be used up.
const PART_OF_LIMIT: u64 = 80;

/// What a driver needs to look, and to give orders.
pub struct View {
    shards: Shards,
    connections: BTreeMap<ShardName, Reached>,
    /// Shards that could not be reached, and when they are tried again.
    away: BTreeMap<ShardName, Instant>,
    /// Why nothing is known of a shard.
    unseen: BTreeMap<ShardName, Box<str>>,
    /// What people have not been told yet.
    news: Vec<Box<str>>,
    /// Bytes of log that a server keeps for a slot at most.
    limits: BTreeMap<ShardName, Option<u64>>,
    /// When leases were last asked for, and those that had ended.
    leases: Option<Instant>,
    lapsed: BTreeSet<Box<str>>,
}

/// A connection, and the node that it goes to.
struct Reached {
    node: Option<(String, u16)>,
    connection: Arc<Connection>,
}

/// How long one shard may keep all others waiting: while clients wait, no longer than they were to wait.
pub fn patience(job: &Job) -> Duration {
    match &job.phase {
        Phase::Turning(turn) if turn.can_be_undone() => {
            let until = turn.since.0.saturating_add(turn.max_pause_ms);
            let rest = Duration::from_millis(until.saturating_sub(records::milliseconds()));
            rest.clamp(LEAST, PATIENCE)
        }
        Phase::Turning(_) => HASTY,
        _ => PATIENCE,
    }
}

impl View {
    pub fn new(shards: Shards) -> View {
        View {
            shards,
            connections: BTreeMap::new(),
            away: BTreeMap::new(),
            unseen: BTreeMap::new(),
            news: Vec::new(),
            limits: BTreeMap::new(),
            leases: None,
            lapsed: BTreeSet::new(),
        }
    }

    /// A connection to the shard's primary for questions and orders, if there is one.
    pub fn connection(&self, shard: &ShardName) -> Option<Arc<Connection>> {
        let reached = self.connections.get(shard)?;
        Some(Arc::clone(&reached.connection))
    }

    /// It does not do what it is told.
    pub fn lose(&mut self, shard: &ShardName, why: &str) {
        self.connections.remove(shard);
        if self.unseen.insert(shard.clone(), why.into()).is_none() {
            self.news
                .push(format!("waits for shard {shard}: {why}").into());
        }
    }

    fn found(&mut self, shard: &ShardName) {
        if self.unseen.remove(shard).is_some() {
            self.news
                .push(format!("shard {shard} answers again").into());
        }
    }

    /// What is waited for, for people.
    pub fn obstacle(&self) -> Option<Box<str>> {
        let (shard, why) = self.unseen.first_key_value()?;
        Some(format!("waits for shard {shard}: {why}").into())
    }

    /// What happened, each once.
    pub fn take_news(&mut self) -> Vec<Box<str>> {
        std::mem::take(&mut self.news)
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
        self.connect(job, tasks).await;
        let limit = patience(job);
        let asked = job.objects.iter().filter_map(|(shard, objects)| {
            let connection = &self.connections.get(shard)?.connection;
            let asked = asked_of(job);
            Some(async move {
                let ledger = OnShard {
                    client: connection,
                    scope,
                    shard,
                };
                let said = timeout(limit, ledger.look(objects, &asked)).await;
                (shard.clone(), said)
            })
        });
        let asked: Vec<_> = asked.collect();
        for (shard, said) in join_all(asked).await {
            match said {
                Ok(Ok(said)) => {
                    self.found(&shard);
                    let limit = self.limits.get(&shard).copied().flatten();
                    note(&mut seen, shard, said, limit, tasks, lapsed);
                }
                Ok(Err(error)) => self.lose(&shard, &error.to_string()),
                Err(_) => self.lose(&shard, &format!("no answer within {limit:?}")),
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

    /// Reaches the shards of the plan that are not connected. Where another node has become the primary, nothing goes on with the one before.
    async fn connect(&mut self, job: &Job, tasks: &mut Tasks) {
        let shards = &self.shards;
        let before = self.connections.len();
        self.connections.retain(|shard, reached| {
            let node = shards.primary(shard);
            node.is_none() || node == reached.node
        });
        if self.connections.len() < before {
            tasks.stop_all();
        }
        self.connections
            .retain(|_, reached| !reached.connection.is_closed());
        let now = Instant::now();
        self.away.retain(|_, until| *until > now);
        let missing = job.objects.keys().filter(|shard| {
            !self.connections.contains_key(*shard) && !self.away.contains_key(*shard)
        });
        let limit = patience(job).max(LEAST);
        let dials = missing.map(|shard| async move {
            let node = shards.primary(shard);
            let dialed = timeout(limit, dial(shards, shard)).await;
            (shard.clone(), node, dialed)
        });
        for (shard, node, dialed) in join_all(dials).await {
            let why = match dialed {
                Ok(Ok((connection, limit))) => {
                    self.limits.insert(shard.clone(), limit);
                    let connection = Arc::new(connection);
                    self.connections.insert(shard, Reached { node, connection });
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no connection within {limit:?}"),
            };
            tracing::debug!(%shard, why, "a shard cannot be reached");
            self.lose(&shard, &why);
            self.away.insert(shard, now + AGAIN);
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
            asked.strangers.insert(turn.to.other().keys());
            asked.triggers = Triggers::Believed;
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
