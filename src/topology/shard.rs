//! One shard's nodes: they are asked together, what follows is published, and what has changed is logged.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::Notify;
use tokio::time::sleep_until;

use super::answer::{Lock, Look, Lsn, Position, Role, SystemIdentifier, Timeline};
use super::drain::Service;
use super::ejection;
use super::health::{Change, Thresholds};
use super::known::{Elsewhere, Known, Rules, Told};
use super::lag;
use super::node::Node;
use super::promotion::Gate;
use super::succession::News;
use super::view::{NodePlace, Seen, ShardView, Stage};
use super::watch::Views;
use crate::config::{self, Config, Duty, ReadFrom};

/// How long a look at a shard waits for slow nodes before the others are judged without them. The first one waits for all.
const GRACE: Duration = Duration::from_millis(100);

/// Longer than any look.
const HOWEVER_LONG: Duration = Duration::from_secs(3600);

/// What is known of one node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeStatus {
    pub shard: String,
    pub host: String,
    pub port: u16,
    pub stage: Stage,
    /// It is the one that takes writes.
    pub is_primary: bool,
    /// What it says it is. This and the next four are from its last answer, however old.
    pub role: Role,
    pub version: Option<String>,
    pub system_identifier: Option<SystemIdentifier>,
    pub timeline: Option<Timeline>,
    pub position: Option<Lsn>,
    /// Bytes that a replica has still to replay; only while it and its primary answer.
    pub lag: Option<u64>,
    /// How long ago the first of them was seen.
    pub lag_time: Option<Duration>,
    /// What the last look found wrong.
    pub error: Option<String>,
    pub checked: Option<SystemTime>,
    /// Of the last answer.
    pub round_trip: Option<Duration>,
    pub weight: u32,
    pub zone: Option<String>,
    pub duty: Duty,
    /// How long it will still take no reads.
    pub ejected_for: Option<Duration>,
    /// How often it was ejected.
    pub ejections: u64,
    pub lock: Lock,
    /// How much it gets of the reads that it would get, up to 1: less soon after its return.
    pub share: f64,
}

/// What a shard waits for, and when that is.
#[derive(Clone, Copy, Debug)]
enum Due {
    Look(Instant),
    /// The end of an ejection.
    Return(Instant),
}

impl Due {
    fn at(self) -> Instant {
        match self {
            Due::Look(at) | Due::Return(at) => at,
        }
    }
}

/// A shard, watched.
pub(super) struct Shard {
    name: String,
    /// Among all shards.
    place: usize,
    config: Arc<Config>,
    /// In the order of the configuration.
    nodes: Vec<Node>,
    rules: Rules,
    /// The same of all shards: see `pace.rs`.
    origin: Instant,
    known: Mutex<Known>,
    views: Arc<Views>,
    /// While it stands, nobody is shown as the primary. Locked after `known`.
    gate: Mutex<Option<Gate>>,
    /// What is due may have changed.
    changed: Notify,
}

impl Shard {
    /// What was known before of a node that is still there stays known.
    pub fn new(
        place: usize,
        config: &Arc<Config>,
        nodes: Vec<Node>,
        views: &Arc<Views>,
        origin: Instant,
        before: Option<&Shard>,
    ) -> Self {
        let known_as = |node: &Node| before?.nodes.iter().position(|n| n.place == node.place);
        let names: Vec<_> = nodes.iter().map(Node::name).collect();
        let places: Vec<_> = nodes.iter().map(known_as).collect();
        let known = match before {
            Some(before) => before.known().rearranged(&names, &places),
            None => Known::new(&names),
        };
        Shard {
            name: config.shards[place].name.clone(),
            place,
            config: Arc::clone(config),
            nodes,
            rules: rules(config),
            origin,
            known: Mutex::new(known),
            views: Arc::clone(views),
            gate: Mutex::new(before.and_then(|before| before.gate_for(config, place))),
            changed: Notify::new(),
        }
    }

    /// The gate for the same shard of another configuration.
    fn gate_for(&self, config: &Config, place: usize) -> Option<Gate> {
        let gate = self.gate().clone()?;
        let node = &self.nodes[gate.node.0].place;
        let mut nodes = config.shards[place].nodes.iter();
        let same = |other: &config::Node| other.host == node.host && other.port == node.port;
        let node = NodePlace(nodes.position(same)?);
        Some(Gate { node, ..gate })
    }

    fn gate(&self) -> MutexGuard<'_, Option<Gate>> {
        self.gate
            .lock()
            .expect("nothing panics while it holds the lock")
    }

    /// Puts a gate before the primary, or takes it away.
    pub fn set_gate(&self, gate: Option<Gate>) {
        let known = self.known();
        *self.gate() = gate;
        self.publish(&known, Instant::now());
    }

    /// Under the lock, so that an older view never follows a newer one.
    fn publish(&self, known: &Known, now: Instant) {
        self.views
            .put(&self.config, self.place, self.shown(known, now));
    }

    fn shown(&self, known: &Known, now: Instant) -> ShardView {
        let view = known.view(now);
        match &*self.gate() {
            Some(gate) => gate.over(view),
            None => view,
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn origin(&self) -> Instant {
        self.origin
    }

    /// Looks at the nodes whenever that is due. No node is asked while it has still to answer. Never ends by itself.
    pub async fn watch(&self) {
        let mut asked = FuturesUnordered::new();
        let mut is_asked = vec![false; self.nodes.len()];
        for round in 0_u64.. {
            self.known().begin(Instant::now());
            let mut awaited = 0;
            for (place, node) in self.nodes.iter().enumerate() {
                if !std::mem::replace(&mut is_asked[place], true) {
                    awaited += 1;
                    asked.push(async move { (place, round, node.look().await) });
                }
            }
            let grace = match self.known().health().has_been_seen() {
                true => GRACE,
                false => HOWEVER_LONG,
            };
            let grace = tokio::time::sleep(grace);
            tokio::pin!(grace);
            let mut looks = Vec::new();
            while awaited > 0 {
                tokio::select! {
                    biased;
                    Some((place, of, look)) = asked.next() => {
                        is_asked[place] = false;
                        awaited -= usize::from(of == round);
                        looks.push((place, look));
                    }
                    () = &mut grace => break,
                }
            }
            self.judge(looks);
            while let Some(due) = self.until_due() {
                tokio::select! {
                    Some((place, _, look)) = asked.next() => {
                        is_asked[place] = false;
                        self.judge(vec![(place, look)]);
                    }
                    () = self.changed.notified() => self.judge(Vec::new()),
                    () = sleep_until(due.at().into()) => {
                        if let Due::Return(_) = due {
                            self.judge(Vec::new());
                        }
                    }
                }
            }
        }
    }

    /// What there is to do next; `None`: the next look is due.
    fn until_due(&self) -> Option<Due> {
        let now = Instant::now();
        let known = self.known();
        let look = known
            .due(&self.rules, self.origin)
            .filter(|due| *due > now)?;
        match known.next_return(now).filter(|back| *back < look) {
            Some(back) => Some(Due::Return(back)),
            None => Some(Due::Look(look)),
        }
    }

    pub fn has_been_seen(&self) -> bool {
        self.known().health().has_been_seen()
    }

    pub fn has_primary_up(&self) -> bool {
        let known = self.known();
        known.health().primary().is_some()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known
            .lock()
            .expect("nothing panics while it holds the lock")
    }

    /// Asks all nodes at the same time.
    pub async fn look(&self) {
        let asked: FuturesUnordered<_> = self
            .nodes
            .iter()
            .enumerate()
            .map(|(place, node)| async move { (place, node.look().await) })
            .collect();
        let looks = asked.collect().await;
        self.judge(looks);
    }

    /// Asks one of them.
    pub async fn look_at(&self, place: NodePlace) {
        if let Some(node) = self.nodes.get(place.0) {
            let look = node.look().await;
            self.judge(vec![(place.0, look)]);
        }
    }

    /// Says what has changed, to whom it concerns.
    fn judge(&self, mut looks: Vec<(usize, Look)>) {
        looks.sort_by_key(|(place, _)| *place);
        let now = Instant::now();
        let mut known = self.known();
        let told = known.judge(looks, now, &self.rules);
        self.publish(&known, now);
        for told in told {
            self.log(&told, &known);
        }
    }

    /// A client's connection has seen something.
    pub fn sighted(&self, place: NodePlace, seen: &Seen) {
        let now = Instant::now();
        let dice = rand::random_range(-1.0..=1.0);
        let mut known = self.known();
        let before = known.due(&self.rules, self.origin);
        let ejected = known.sighted(place, seen, now, dice, &self.rules);
        if ejected.is_some() || known.due(&self.rules, self.origin) < before {
            self.changed.notify_one();
        }
        drop(known);
        if let Some(length) = ejected {
            let (shard, node) = (&self.name, self.nodes[place.0].name());
            tracing::warn!(
                shard,
                node = &*node,
                ?length,
                ?seen,
                "clients' connections to a replica fail: it is ejected"
            );
        }
    }

    /// The place of a node of this address, and how it is.
    pub fn find(&self, host: &str, port: u16) -> impl Iterator<Item = usize> {
        let is_it = move |node: &Node| node.place.host == host && node.place.port == port;
        let places = self.nodes.iter().enumerate();
        places
            .filter(move |(_, node)| is_it(node))
            .map(|(place, _)| place)
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// Takes a node out of service, or back; not the primary, which is told by `false`.
    pub fn serve(&self, place: usize, service: Service) -> bool {
        let now = Instant::now();
        let mut known = self.known();
        if service == Service::Drained && known.view(now).primary == Some(NodePlace(place)) {
            return false;
        }
        known.serve(place, service, now);
        self.publish(&known, now);
        true
    }

    pub fn view(&self) -> ShardView {
        self.shown(&self.known(), Instant::now())
    }

    /// The primary, whether a gate stands before it or not.
    pub fn known_primary(&self) -> Option<NodePlace> {
        self.known().view(Instant::now()).primary
    }

    pub fn statuses(&self) -> Vec<NodeStatus> {
        let now = Instant::now();
        let known = self.known();
        let status = |(place, node): (usize, &Node)| {
            let health = known.health().node(place);
            let seen = health.seen();
            let ejection = known.ejection(place);
            NodeStatus {
                shard: self.name.clone(),
                host: node.place.host.clone(),
                port: node.place.port,
                stage: known.stage(place, now),
                is_primary: known.health().primary() == Some(place),
                role: health.role(),
                version: seen.map(|answer| answer.version.to_string()),
                system_identifier: seen.and_then(|answer| answer.system),
                timeline: seen.and_then(|answer| answer.timeline),
                position: seen.and_then(|answer| match answer.position {
                    Position::Primary { written, .. } => Some(written),
                    Position::Replica { received, replayed } => replayed.or(received),
                }),
                lag: known.lag(place).bytes,
                lag_time: known.lag(place).time,
                error: known.error(place),
                checked: health.checked(),
                round_trip: seen.map(|answer| answer.round_trip),
                weight: node.place.weight,
                zone: node.place.zone.clone(),
                duty: node.place.duty,
                ejected_for: ejection.left(now),
                ejections: ejection.times,
                lock: known.health().lock(place).clone(),
                share: known.share(place, now, self.config.health.slow_start),
            }
        };
        self.nodes.iter().enumerate().map(status).collect()
    }

    /// How often another node became the primary.
    pub fn successions(&self) -> u64 {
        self.known().health().successions
    }

    fn log(&self, told: &Told, known: &Known) {
        let shard = &*self.name;
        let name = |place: usize| self.nodes[place].name();
        match told {
            Told::News(News::Node(place, change)) => log(shard, &name(*place), change),
            Told::News(News::Fenced(place, standing)) => {
                tracing::error!(shard, node = &*name(*place), error = %standing, "node is fenced");
            }
            Told::News(News::Freed(place)) => {
                tracing::info!(shard, node = &*name(*place), "node is no longer fenced");
            }
            Told::News(News::Primary(place)) => {
                let node = &*name(*place);
                match known.health().successions {
                    1 => tracing::info!(shard, node, "node is the primary"),
                    _ => tracing::warn!(shard, node, "node is now the primary"),
                }
            }
            Told::News(News::NoPrimary) => {
                let error = known.health().trouble();
                tracing::error!(shard, error, "shard has no primary");
            }
            Told::News(News::Lock(place, lock)) => {
                let node = &*name(*place);
                match lock {
                    Lock::Unasked | Lock::Held { .. } => {
                        tracing::info!(shard, node, "Patroni says that the node is the leader");
                    }
                    Lock::NotHeld { said, .. } => {
                        tracing::info!(
                            shard,
                            node,
                            said = &**said,
                            "Patroni says that the node is not the leader"
                        );
                    }
                    Lock::Unknown(error) => {
                        tracing::warn!(
                            shard,
                            node,
                            error = &**error,
                            "the node's Patroni does not answer"
                        );
                    }
                }
            }
            Told::Lagging(place, lag) => {
                let (bytes, time) = (lag.bytes, lag.time);
                tracing::warn!(
                    shard,
                    node = &*name(*place),
                    bytes,
                    ?time,
                    "replica is too far behind"
                );
            }
            Told::CaughtUp(place) => {
                tracing::info!(shard, node = &*name(*place), "replica has caught up");
            }
            Told::Returned(place) => tracing::warn!(
                shard,
                node = &*name(*place),
                "an ejected replica is used again: there is no other"
            ),
        }
    }
}

fn log(shard: &str, node: &str, change: &Change) {
    match change {
        Change::Up(role) => tracing::info!(shard, node, role = role.as_str(), "node is up"),
        Change::Role(role) => {
            tracing::warn!(shard, node, role = role.as_str(), "node has a new role");
        }
        Change::Down(error) => tracing::error!(shard, node, error, "node is down"),
        Change::NoEntry(error) => tracing::error!(shard, node, error, "node cannot be looked at"),
        Change::Refused(foreign) => {
            tracing::error!(shard, node, error = %foreign, "node is refused");
        }
    }
}

fn rules(config: &Config) -> Rules {
    let config::Health {
        interval,
        fall,
        rise,
        eject_after,
        eject_time,
        max_eject_time,
        ..
    } = config.health;
    let users = config.users.iter().map(|user| user.read_from);
    let databases = config.databases.iter().map(|database| database.read_from);
    let mut policies = users.chain(databases).flatten();
    let only_replicas = config.reads.from == ReadFrom::Replica
        || policies.any(|policy| policy == ReadFrom::Replica);
    Rules {
        thresholds: Thresholds { fall, rise },
        ejection: ejection::Limits {
            after: eject_after,
            time: eject_time,
            longest: max_eject_time,
        },
        lag: lag::Limits {
            bytes: config.reads.max_lag_size.map(|size| size.0),
            time: config.reads.max_lag,
        },
        elsewhere: match only_replicas {
            true => Elsewhere::Nowhere,
            false => Elsewhere::Primary,
        },
        interval,
    }
}
