//! All shards' nodes, watched.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::connect::{self, Login, NodeError};
use super::node::{APPLICATION_NAME, Node};
use super::primary::{Primaries, Primary};
use super::promotion::{Gate, Tally, Visit};
use super::shard::{NodeStatus, Shard};
use super::view::{NodePlace, ShardView, Sighting, View};
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
    views: Arc<Views>,
    tally: Tally,
}

/// The last view, and those who wait for the next one.
pub(super) struct Views(watch::Sender<Arc<View>>);

impl Views {
    /// Makes a new view when a shard of this configuration is another one than it was.
    pub fn put(&self, config: &Arc<Config>, place: usize, shard: ShardView) {
        self.0.send_if_modified(|view| {
            let known = view.shards.get(place);
            let is_of_it = Arc::ptr_eq(&view.config, config);
            if !is_of_it || known.is_none_or(|known| known.says_the_same(&shard)) {
                return false;
            }
            let mut shards = view.shards.clone();
            shards[place] = shard;
            *view = Arc::new(View {
                config: Arc::clone(config),
                shards,
            });
            true
        });
    }
}

/// A shard's primary, and how to log in to it.
#[derive(Clone, Debug)]
pub struct WayIn {
    pub node: config::Node,
    pub login: Login,
    pub encryption: Arc<ServerEncryption>,
    pub connect_timeout: Duration,
}

/// What one configuration has us watch.
pub(super) struct Watched {
    config: Arc<Config>,
    encryption: Arc<ServerEncryption>,
    /// In the order of the configuration.
    pub(super) shards: Vec<Arc<Shard>>,
    /// For each database those of each node of each shard, all in the order of the configuration.
    lent: Vec<Vec<Vec<OnceLock<Primaries>>>>,
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
    #[error("shard {shard} has no primary: {trouble}")]
    NoPrimary { shard: String, trouble: Arc<str> },
}

impl Topology {
    /// Opens nothing yet. Must be called on the control plane's runtime, as must everything else here that waits.
    pub fn new(config: &Arc<Config>, encryption: Arc<ServerEncryption>) -> Topology {
        let views = Arc::new(Views(watch::Sender::new(Arc::new(View::unseen(config)))));
        let watched = Watched::new(config, encryption, &[], &views);
        Topology {
            current: watch::Sender::new(Arc::new(watched)),
            views,
            tally: Tally::default(),
        }
    }

    /// Goes on with another configuration. What is known of a node that stays in its shard is kept; connections are opened anew.
    pub fn follow(&self, config: &Arc<Config>, encryption: &Arc<ServerEncryption>) {
        let known = self.current();
        let watched = Watched::new(config, encryption.clone(), &known.shards, &self.views);
        let shards = watched.shards.iter().map(|shard| shard.view()).collect();
        let view = View {
            config: Arc::clone(config),
            shards,
        };
        self.current.send_replace(Arc::new(watched));
        self.views.0.send_replace(Arc::new(view));
    }

    /// The nodes as they are known, whenever anything but their marks changes. Whoever borrows a view must not call back here before giving it back.
    pub fn views(&self) -> watch::Receiver<Arc<View>> {
        self.views.0.subscribe()
    }

    /// Tells what a client's connection has seen. From any thread, and without waiting.
    pub fn sighted(&self, sighting: &Sighting) {
        let watched = self.current.borrow();
        if let Some(shard) = watched.shards.get(sighting.shard.index()) {
            shard.sighted(sighting.node, &sighting.seen);
        }
    }

    pub(super) fn current(&self) -> Arc<Watched> {
        self.current.borrow().clone()
    }

    /// Looks at every node at the configured interval, the first time at once. Never ends by itself; all of it ends with the task it runs on.
    pub async fn watch(self: Arc<Self>) {
        let mut configurations = self.current.subscribe();
        loop {
            let watched = configurations.borrow_and_update().clone();
            let mut looking = JoinSet::new();
            for shard in &watched.shards {
                let shard = Arc::clone(shard);
                looking.spawn(async move { shard.watch().await });
            }
            tokio::select! {
                // The sender is `self`, so there is always one.
                _ = configurations.changed() => {}
                // None of them ends by itself; a panic in one goes on here.
                _ = looking.join_all() => {}
            }
        }
    }

    /// Waits until every shard has been looked at, for as long as one look may take at most.
    pub async fn seen(&self) {
        let mut views = self.views();
        let limit = self.current().config.health.timeout;
        let looked = async {
            while !self
                .current()
                .shards
                .iter()
                .all(|shard| shard.has_been_seen())
            {
                // The sender is `self`, so there is always one.
                let _ = views.changed().await;
            }
        };
        // Who is late is heard later.
        let _ = tokio::time::timeout(limit, looked).await;
    }

    /// Looks at every node once. Only nodes that do not let us look are in an unknown state after that.
    pub async fn look(&self) {
        let watched = self.current();
        join_all(watched.shards.iter().map(|shard| shard.look())).await;
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

    /// Looks at one node at once.
    pub async fn look_at(&self, shard: ShardId, place: NodePlace) {
        if let Some(shard) = self.current().shards.get(shard.index()) {
            shard.look_at(place).await;
        }
    }

    /// Puts a gate before a shard's primary, or takes it away: a view follows at once.
    pub fn set_gate(&self, shard: ShardId, gate: Option<Gate>) {
        if let Some(shard) = self.current().shards.get(shard.index()) {
            shard.set_gate(gate);
        }
    }

    /// The primary as it is known, whether a gate stands before it or not.
    pub fn known_primary(&self, shard: ShardId) -> Option<NodePlace> {
        self.current().shards.get(shard.index())?.known_primary()
    }

    /// Goes to a node over a connection of its own, to ask and to change things there. Takes no longer than `limit`, and so does whatever is asked.
    pub async fn visit(
        &self,
        shard: ShardId,
        place: NodePlace,
        limit: Duration,
    ) -> Result<Visit, NodeError> {
        let watched = self.current();
        let found = watched.config.shards.get(shard.index());
        let node = found.and_then(|shard| shard.nodes.get(place.0));
        let node =
            node.ok_or_else(|| NodeError::Strange("it has left the configuration".to_owned()))?;
        let login = login(&watched.config, first_database(&watched.config), node);
        Visit::begin(&login, node, &watched.encryption, limit).await
    }

    /// How often primaries were made from here.
    pub fn promotions(&self) -> &Tally {
        &self.tally
    }

    /// Whether every shard has a primary that is up.
    pub fn primaries_up(&self) -> bool {
        self.current()
            .shards
            .iter()
            .all(|shard| shard.has_primary_up())
    }

    /// How often another node became the primary, by shard.
    pub fn successions(&self) -> Vec<(String, u64)> {
        let watched = self.current();
        let each = watched.shards.iter();
        each.map(|shard| (shard.name().to_owned(), shard.successions()))
            .collect()
    }

    /// Reads the definitions of a database from the primary of its home shard, over a connection of its own.
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
        let (_, place) = watched.primary(configured.home)?;
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

    /// Lends a connection to the primary of a shard, in a database. It is the control plane's own, as its own role. Takes no longer than
    /// `pool.connect_timeout`. To hold one and wait for another is to ask for a deadlock: there are few of them.
    pub async fn primary(&self, database: &str, shard: ShardId) -> Result<Primary, TopologyError> {
        let watched = self.current();
        let place = watched.database(database)?;
        let (node, _) = watched.primary(shard)?;
        watched.lend(place, shard, node).await
    }

    /// The way to the primary of a shard, in a database, as the control plane's own role: for connections that are none of the lent ones.
    pub fn way_in(&self, database: &str, shard: ShardId) -> Result<WayIn, TopologyError> {
        let watched = self.current();
        let place = watched.database(database)?;
        let (_, node) = watched.primary(shard)?;
        Ok(WayIn {
            node: node.clone(),
            login: login(&watched.config, &watched.config.databases[place], node),
            encryption: Arc::clone(&watched.encryption),
            connect_timeout: watched.config.pool.connect_timeout,
        })
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
        let found = watched
            .database(database)
            .and_then(|place| Ok((place, watched.primary(shard)?.1)));
        let (place, node) = match found {
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
    fn database(&self, database: &str) -> Result<usize, TopologyError> {
        let mut databases = self.config.databases.iter();
        databases
            .position(|known| known.name == database)
            .ok_or_else(|| {
                TopologyError::Configuration(format!("there is no database {database:?}"))
            })
    }

    /// The node that takes a shard's writes.
    fn primary(&self, shard: ShardId) -> Result<(NodePlace, &config::Node), TopologyError> {
        let found = self.config.shards.get(shard.index());
        let (configured, watched) = found.zip(self.shards.get(shard.index())).ok_or_else(|| {
            TopologyError::Configuration(format!("there is no shard of number {}", shard.0))
        })?;
        let view = watched.view();
        match view.primary {
            Some(place) => Ok((place, &configured.nodes[place.0])),
            None => Err(TopologyError::NoPrimary {
                shard: configured.name.clone(),
                trouble: view.trouble.unwrap_or_default(),
            }),
        }
    }

    async fn lend(
        &self,
        database: usize,
        shard: ShardId,
        place: NodePlace,
    ) -> Result<Primary, TopologyError> {
        let primaries = self.lent[database][shard.index()][place.0].get_or_init(|| {
            let node = &self.config.shards[shard.index()].nodes[place.0];
            let login = login(&self.config, &self.config.databases[database], node);
            let timeout = self.config.pool.connect_timeout;
            Primaries::new(node, &login, &self.encryption, timeout)
        });
        primaries.lend().await
    }

    /// `known` are the shards as they were watched before.
    fn new(
        config: &Arc<Config>,
        encryption: Arc<ServerEncryption>,
        known: &[Arc<Shard>],
        views: &Arc<Views>,
    ) -> Self {
        let origin = known
            .first()
            .map_or_else(Instant::now, |shard| shard.origin());
        let shards = config.shards.iter().enumerate();
        let shards = shards.map(|(place, shard)| {
            let nodes = shard.nodes.iter().map(|node| {
                let login = login(config, first_database(config), node);
                Node::new(node, &login, &encryption, config)
            });
            let before = known.iter().find(|known| known.name() == shard.name);
            let nodes = nodes.collect();
            let before = before.map(Arc::as_ref);
            Arc::new(Shard::new(place, config, nodes, views, origin, before))
        });
        let of_shard =
            |shard: &config::Shard| shard.nodes.iter().map(|_| OnceLock::new()).collect();
        let of_database = |_: &config::Database| config.shards.iter().map(of_shard).collect();
        Watched {
            config: config.clone(),
            shards: shards.collect(),
            lent: config.databases.iter().map(of_database).collect(),
            encryption,
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
