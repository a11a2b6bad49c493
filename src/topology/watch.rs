//! All shards' nodes, watched.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::connect::{self, Login, NodeError};
use super::node::{APPLICATION_NAME, Node};
use super::primary::{Primaries, Primary};
use super::shard::{NodeStatus, Shard};
use crate::catalog;
use crate::catalog::schema::{self, Schema};
use crate::config::{self, Config, Method, Secret, User};
use crate::sharding::ShardId;
use crate::wire::tls::ServerEncryption;

/// How long reading the definitions of a database may take.
const LONGEST_SCHEMA_READ: Duration = Duration::from_secs(60);

/// Where shards live and whether they are well.
pub struct Topology {
    current: watch::Sender<Arc<Watched>>,
}

/// What one configuration has us watch.
struct Watched {
    config: Arc<Config>,
    encryption: Arc<ServerEncryption>,
    /// In the order of the configuration.
    shards: Vec<Arc<Shard>>,
    /// For each database those of each shard, both in the order of the configuration.
    primaries: Vec<Vec<Primaries>>,
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
        error: Arc<NodeError>,
    },
}

impl Topology {
    /// Opens nothing yet. Must be called on the control plane's runtime, as must everything else here that waits.
    pub fn new(config: &Arc<Config>, encryption: Arc<ServerEncryption>) -> Topology {
        let watched = Watched::new(config, encryption, &[]);
        Topology {
            current: watch::Sender::new(Arc::new(watched)),
        }
    }

    /// Goes on with another configuration. What is known of a node that stays in its shard is kept; connections are opened anew.
    pub fn follow(&self, config: &Arc<Config>, encryption: &Arc<ServerEncryption>) {
        let known = self.current();
        let watched = Watched::new(config, encryption.clone(), &known.shards);
        self.current.send_replace(Arc::new(watched));
    }

    fn current(&self) -> Arc<Watched> {
        self.current.borrow().clone()
    }

    /// Looks at every node at the configured interval, the first time at once. Never ends by itself; all of it ends with the task it runs on.
    pub async fn watch(self: Arc<Self>) {
        let mut configurations = self.current.subscribe();
        loop {
            let watched = configurations.borrow_and_update().clone();
            let interval = watched.config.health.interval;
            let mut looking = JoinSet::new();
            for shard in &watched.shards {
                let shard = Arc::clone(shard);
                looking.spawn(async move { shard.watch(interval).await });
            }
            tokio::select! {
                // The sender is `self`, so there is always one.
                _ = configurations.changed() => {}
                // None of them ends by itself; a panic in one goes on here.
                _ = looking.join_all() => {}
            }
        }
    }

    /// Looks at every node once. No node is in an unknown state after that.
    pub async fn look(&self) {
        let mut looking = JoinSet::new();
        for shard in &self.current().shards {
            let shard = Arc::clone(shard);
            looking.spawn(async move { shard.look().await });
        }
        looking.join_all().await;
    }

    /// All nodes, in the order of the configuration.
    pub fn nodes(&self) -> Vec<NodeStatus> {
        let watched = self.current();
        watched
            .shards
            .iter()
            .flat_map(|shard| shard.statuses())
            .collect()
    }

    /// Whether every shard has a primary that is up.
    pub fn primaries_up(&self) -> bool {
        self.current()
            .shards
            .iter()
            .all(|shard| shard.has_primary_up())
    }

    /// Reads the definitions of a database from the first node of its home shard, over a connection of its own.
    pub async fn read_schema(&self, database: &str) -> Result<Schema, TopologyError> {
        let watched = self.current();
        let configured = catalog::build(&watched.config, database).map_err(|problems| {
            let said: Vec<_> = problems.iter().map(ToString::to_string).collect();
            TopologyError::Configuration(said.join("; "))
        })?;
        let declared = watched
            .config
            .databases
            .iter()
            .find(|known| known.name == database)
            .expect("a catalog is made of known databases only");
        let place = first_node(&watched.config.shards[configured.home.index()]);
        watched
            .read_from(place, declared)
            .await
            .map_err(|error| TopologyError::Node {
                host: place.host.clone(),
                port: place.port,
                error: Arc::new(error),
            })
    }

    /// The configuration that is followed at the moment.
    pub fn config(&self) -> Arc<Config> {
        self.current().config.clone()
    }

    /// Lends a connection to the first node of a shard, in a database. It is the control plane's own, as its own role. Takes no longer than
    /// `pool.connect_timeout`. To hold one and wait for another is to ask for a deadlock: there are few of them.
    pub async fn primary(&self, database: &str, shard: ShardId) -> Result<Primary, TopologyError> {
        let watched = self.current();
        let (place, _) = watched.find(database, shard)?;
        watched.primaries[place][shard.index()].lend().await
    }

    /// The same as another role; `None` where the configuration has no way in for it. Such a connection is used once.
    pub async fn primary_as(
        &self,
        role: &str,
        database: &str,
        shard: ShardId,
    ) -> Option<Result<Primary, TopologyError>> {
        let watched = self.current();
        let config = &watched.config;
        let is_it = |user: &&User| user.server_user == role && has_way_in(user);
        let user = config.users.iter().find(is_it)?;
        let (place, node) = match watched.find(database, shard) {
            Ok(found) => found,
            Err(error) => return Some(Err(error)),
        };
        let login = Login {
            database: database_on(node, &config.databases[place]).to_owned(),
            user: user.server_user.clone(),
            password: user.server_password.clone(),
        };
        let timeout = config.pool.connect_timeout;
        let primaries = Primaries::new(node, &login, &watched.encryption, timeout);
        Some(primaries.lend().await)
    }
}

impl Watched {
    /// The place of a database, and the node that is taken for a shard's primary.
    fn find(
        &self,
        database: &str,
        shard: ShardId,
    ) -> Result<(usize, &config::Node), TopologyError> {
        let mut databases = self.config.databases.iter();
        let place = databases.position(|known| known.name == database);
        let place = place.ok_or_else(|| {
            TopologyError::Configuration(format!("there is no database {database:?}"))
        })?;
        let shard = self.config.shards.get(shard.index()).ok_or_else(|| {
            TopologyError::Configuration(format!("there is no shard of number {}", shard.0))
        })?;
        Ok((place, first_node(shard)))
    }

    /// `known` are the shards as they were watched before.
    fn new(config: &Arc<Config>, encryption: Arc<ServerEncryption>, known: &[Arc<Shard>]) -> Self {
        let shards = config
            .shards
            .iter()
            .map(|shard| {
                let nodes = shard.nodes.iter().map(|node| {
                    let login = login(config, first_database(config), node);
                    Node::new(node, &login, &encryption, config)
                });
                let before = known.iter().find(|known| known.name() == shard.name);
                Arc::new(Shard::new(
                    &shard.name,
                    nodes.collect(),
                    &config.health,
                    before.map(Arc::as_ref),
                ))
            })
            .collect();
        let timeout = config.pool.connect_timeout;
        let primaries = config.databases.iter().map(|database| {
            let of_shard = |shard: &config::Shard| {
                let place = first_node(shard);
                let login = login(config, database, place);
                Primaries::new(place, &login, &encryption, timeout)
            };
            config.shards.iter().map(of_shard).collect()
        });
        Watched {
            config: config.clone(),
            primaries: primaries.collect(),
            encryption,
            shards,
        }
    }

    async fn read_from(
        &self,
        place: &config::Node,
        database: &config::Database,
    ) -> Result<Schema, NodeError> {
        let login = login(&self.config, database, place);
        let limit = self.config.pool.connect_timeout;
        let attempt = connect::connect(&login, APPLICATION_NAME, place, &self.encryption);
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

/// Taken as the primary.
fn first_node(shard: &config::Shard) -> &config::Node {
    shard
        .nodes
        .first()
        .expect("a shard without nodes is refused")
}

fn first_database(config: &Config) -> &config::Database {
    config
        .databases
        .first()
        .expect("a configuration without databases is refused")
}

/// The control plane's way into a node.
fn login(config: &Config, database: &config::Database, node: &config::Node) -> Login {
    let (user, password) = control_login(config);
    Login {
        database: database_on(node, database).to_owned(),
        user: user.to_owned(),
        password: password.cloned(),
    }
}

/// A database's name on a node.
fn database_on<'a>(node: &'a config::Node, database: &'a config::Database) -> &'a str {
    node.database
        .as_deref()
        .unwrap_or(&database.server_database)
}

/// The role that the control plane is on the servers.
pub fn control_role(config: &Config) -> &str {
    control_login(config).0
}

/// The first user whose server password is known or who needs none, else the role that looks up users, else the first of all.
fn control_login(config: &Config) -> (&str, Option<&Secret>) {
    let able = config.users.iter().find(|user| has_way_in(user)).map(of);
    let asker = || {
        let query = config.authentication.query.as_ref()?;
        Some((&*query.user, query.password.as_ref()))
    };
    able.or_else(asker)
        .or_else(|| config.users.first().map(of))
        .unwrap_or_default()
}

fn has_way_in(user: &User) -> bool {
    user.server_password.is_some() || user.auth == Some(Method::Trust)
}

fn of(user: &User) -> (&str, Option<&Secret>) {
    (&user.server_user, user.server_password.as_ref())
}
