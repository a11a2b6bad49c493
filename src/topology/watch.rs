//! All shards' nodes, watched.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use thiserror::Error;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::connect::{self, Login, NodeError};
use super::health::{
    Change, Lsn, NodeState, Position, Role, ShardHealth, SystemIdentifier, Thresholds, Timeline,
};
use super::node::{APPLICATION_NAME, Node};
use crate::catalog;
use crate::catalog::schema::{self, Schema};
use crate::config::{self, Auth, Config, User};
use crate::wire::tls::ServerEncryption;

/// How long reading the definitions of a database may take.
const LONGEST_SCHEMA_READ: Duration = Duration::from_secs(60);

/// Where shards live and whether they are well.
pub struct Topology {
    config: Arc<Config>,
    encryption: Arc<ServerEncryption>,
    /// In the order of the configuration, as are the nodes of each.
    shards: Vec<Shard>,
}

struct Shard {
    nodes: Vec<Arc<Node>>,
    health: Mutex<ShardHealth>,
}

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

/// Why something could not be had from a shard.
#[derive(Debug, Error)]
pub enum TopologyError {
    /// The configuration has no such database, or no catalog can be made of it.
    #[error("{0}")]
    Configuration(String),
    #[error("{host}:{port}: {error}")]
    Node {
        host: String,
        port: u16,
        #[source]
        error: NodeError,
    },
}

impl Topology {
    /// Opens nothing yet. Must be called on the control plane's runtime, as must everything else here that waits.
    pub fn new(config: &Arc<Config>, encryption: Arc<ServerEncryption>) -> Topology {
        let shards = config
            .shards
            .iter()
            .map(|shard| Shard {
                nodes: shard
                    .nodes
                    .iter()
                    .map(|node| {
                        let login = login(config, first_database(config), node);
                        Arc::new(Node::new(&shard.name, node, &login, &encryption, config))
                    })
                    .collect(),
                health: Mutex::new(ShardHealth::new(shard.nodes.len())),
            })
            .collect();
        Topology {
            config: config.clone(),
            encryption,
            shards,
        }
    }

    /// Looks at every node at the configured interval until `stop` is ready. The first look is made at once.
    pub async fn watch(self: Arc<Self>, stop: impl Future<Output = ()>) {
        let mut shards = JoinSet::new();
        for place in 0..self.shards.len() {
            let topology = self.clone();
            shards.spawn(async move { topology.watch_shard(place).await });
        }
        tokio::select! {
            () = stop => {}
            // None of them ends by itself.
            _ = shards.join_all() => {}
        }
    }

    async fn watch_shard(&self, place: usize) {
        let mut interval = tokio::time::interval(self.config.health.interval);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.shards[place].look(self.thresholds()).await;
        }
    }

    /// Looks at every node once. A node that has not been looked at before is then up, down or refused.
    pub async fn look(self: &Arc<Self>) {
        let mut shards = JoinSet::new();
        for place in 0..self.shards.len() {
            let topology = self.clone();
            shards.spawn(async move {
                topology.shards[place].look(topology.thresholds()).await;
            });
        }
        shards.join_all().await;
    }

    fn thresholds(&self) -> Thresholds {
        Thresholds {
            fall: self.config.health.fall,
            rise: self.config.health.rise,
        }
    }

    /// All nodes, in the order of the configuration.
    pub fn nodes(&self) -> Vec<NodeStatus> {
        self.shards.iter().flat_map(Shard::statuses).collect()
    }

    /// Whether every shard has a primary that is up.
    pub fn primaries_up(&self) -> bool {
        self.shards
            .iter()
            .all(|shard| shard.health().has_primary_up())
    }

    /// Reads the definitions of a database from the first node of its home shard, over a connection of its own.
    pub async fn read_schema(&self, database: &str) -> Result<Schema, TopologyError> {
        let configured = catalog::build(&self.config, database).map_err(|problems| {
            let said: Vec<_> = problems.iter().map(ToString::to_string).collect();
            TopologyError::Configuration(said.join("; "))
        })?;
        let declared = self
            .config
            .databases
            .iter()
            .find(|known| known.name == database)
            .expect("a catalog is made of known databases only");
        let node = self.shards[configured.home.index()]
            .nodes
            .first()
            .expect("a shard without nodes is refused");
        self.read_from(node, declared)
            .await
            .map_err(|error| TopologyError::Node {
                host: node.place.host.clone(),
                port: node.place.port,
                error,
            })
    }

    async fn read_from(
        &self,
        node: &Node,
        database: &config::Database,
    ) -> Result<Schema, NodeError> {
        let login = login(&self.config, database, &node.place);
        let limit = self.config.pool.connect_timeout;
        let attempt = connect::connect(&login, APPLICATION_NAME, &node.place, &self.encryption);
        let (client, connection) = tokio::time::timeout(limit, attempt)
            .await
            .map_err(|_| NodeError::Slow(limit))??;
        let reading = async {
            let read = async move { schema::read(&client).await };
            let (read, end) = tokio::join!(read, connection);
            // A connection that broke says more than the query that did not get through.
            end.and(read)
        };
        tokio::time::timeout(LONGEST_SCHEMA_READ, reading)
            .await
            .map_err(|_| NodeError::Slow(LONGEST_SCHEMA_READ))?
            .map_err(NodeError::from)
    }
}

impl Shard {
    fn health(&self) -> MutexGuard<'_, ShardHealth> {
        self.health
            .lock()
            .expect("nothing panics while it holds the lock")
    }

    /// Asks all nodes at the same time, and says what has changed.
    async fn look(&self, thresholds: Thresholds) {
        let mut asked = JoinSet::new();
        for (place, node) in self.nodes.iter().cloned().enumerate() {
            asked.spawn(async move { (place, node.look().await) });
        }
        let mut looks = asked.join_all().await;
        looks.sort_by_key(|(place, _)| *place);
        let looks = looks.into_iter().map(|(_, look)| look).collect();
        let changes = self.health().step(looks, thresholds);
        for (place, change) in changes {
            log(&self.nodes[place], &change);
        }
    }

    fn statuses(&self) -> Vec<NodeStatus> {
        let health = self.health();
        let nodes = self.nodes.iter().zip(health.nodes()).enumerate();
        nodes
            .map(|(place, (node, known))| {
                let seen = known.seen();
                NodeStatus {
                    shard: node.shard.clone(),
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

fn log(node: &Node, change: &Change) {
    let (shard, host, port) = (&node.shard, &node.place.host, node.place.port);
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

fn first_database(config: &Config) -> &config::Database {
    config
        .databases
        .first()
        .expect("a configuration without databases is refused")
}

/// The control plane's way into a node: as the first user whose server password is known or who needs none, else as the first of all.
fn login(config: &Config, database: &config::Database, node: &config::Node) -> Login {
    let able = |user: &&User| user.server_password.is_some() || matches!(user.auth, Auth::Trust);
    let user = config
        .users
        .iter()
        .find(able)
        .or(config.users.first())
        .expect("a configuration without users is refused");
    Login {
        database: node
            .database
            .clone()
            .unwrap_or_else(|| database.server_database.clone()),
        user: user.server_user.clone(),
        password: user.server_password.clone(),
    }
}
