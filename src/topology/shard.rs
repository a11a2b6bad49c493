//! One shard's nodes: they are asked together, and what has changed is logged.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::health::{
    Change, Lsn, NodeState, Position, Role, ShardHealth, SystemIdentifier, Thresholds, Timeline,
};
use super::node::Node;
use crate::config;

/// What is known of one node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeStatus {
    pub shard: String,
    pub host: String,
    pub port: u16,
    pub state: NodeState,
    /// This and the next four are from its last answer, however old.
    pub role: Role,
    pub version: Option<String>,
    pub system_identifier: Option<SystemIdentifier>,
    pub timeline: Option<Timeline>,
    pub position: Option<Lsn>,
    /// Bytes that a replica has still to replay; only while it and its primary answer.
    pub lag: Option<u64>,
    /// What the last look found wrong.
    pub error: Option<String>,
    pub checked: Option<SystemTime>,
    /// Of the last answer.
    pub round_trip: Option<Duration>,
}

/// A shard, watched.
pub(super) struct Shard {
    name: String,
    /// In the order of the configuration.
    nodes: Vec<Arc<Node>>,
    thresholds: Thresholds,
    health: Mutex<ShardHealth>,
}

impl Shard {
    /// What was known before of a node that is still there stays known.
    pub fn new(
        name: &str,
        nodes: Vec<Node>,
        configured: &config::Health,
        before: Option<&Shard>,
    ) -> Self {
        let known_as = |node: &Node| before?.nodes.iter().position(|n| n.place == node.place);
        let places: Vec<_> = nodes.iter().map(known_as).collect();
        let health = match before {
            Some(before) => before.health().rearranged(&places),
            None => ShardHealth::new(nodes.len()),
        };
        Shard {
            name: name.to_owned(),
            nodes: nodes.into_iter().map(Arc::new).collect(),
            thresholds: Thresholds {
                fall: configured.fall,
                rise: configured.rise,
            },
            health: Mutex::new(health),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub async fn watch(&self, interval: Duration) {
        let mut interval = tokio::time::interval(interval);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.look().await;
        }
    }

    pub fn has_primary_up(&self) -> bool {
        self.health().has_primary_up()
    }

    fn health(&self) -> MutexGuard<'_, ShardHealth> {
        self.health
            .lock()
            .expect("nothing panics while it holds the lock")
    }

    /// Asks all nodes at the same time, and says what has changed.
    pub async fn look(&self) {
        let mut asked = JoinSet::new();
        for (place, node) in self.nodes.iter().cloned().enumerate() {
            asked.spawn(async move { (place, node.look().await) });
        }
        let mut looks = asked.join_all().await;
        looks.sort_by_key(|(place, _)| *place);
        let looks = looks.into_iter().map(|(_, look)| look).collect();
        let changes = self.health().step(looks, self.thresholds);
        for (place, change) in changes {
            log(&self.name, &self.nodes[place].place, &change);
        }
    }

    pub fn statuses(&self) -> Vec<NodeStatus> {
        let health = self.health();
        let nodes = self.nodes.iter().zip(health.nodes()).enumerate();
        nodes
            .map(|(place, (node, known))| {
                let seen = known.seen();
                NodeStatus {
                    shard: self.name.clone(),
                    host: node.place.host.clone(),
                    port: node.place.port,
                    state: known.state(),
                    role: known.role(),
                    version: seen.map(|answer| answer.version.clone()),
                    system_identifier: seen.and_then(|answer| answer.system),
                    timeline: seen.and_then(|answer| answer.timeline),
                    position: seen.and_then(|answer| match answer.position {
                        Position::Primary { written } => Some(written),
                        Position::Replica { received, replayed } => replayed.or(received),
                    }),
                    lag: health.lag(place),
                    error: known.error(),
                    checked: known.checked(),
                    round_trip: seen.map(|answer| answer.round_trip),
                }
            })
            .collect()
    }
}

fn log(shard: &str, node: &config::Node, change: &Change) {
    let (host, port) = (&node.host, node.port);
    match change {
        Change::Up(role) => tracing::info!(shard, host, port, role = role.as_str(), "node is up"),
        Change::Role(role) => {
            tracing::warn!(
                shard,
                host,
                port,
                role = role.as_str(),
                "node has a new role"
            );
        }
        Change::Down(error) => tracing::error!(shard, host, port, error, "node is down"),
        Change::Refused(foreign) => {
            tracing::error!(shard, host, port, error = %foreign, "node is refused");
        }
    }
}
