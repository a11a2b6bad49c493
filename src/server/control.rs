//! The control plane: the configuration in force, the servers' definitions, and what the admin room asks for.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::StartError;
use super::elsewhere::Elsewhere;
use super::failover::Failover;
use super::readiness::{Known, Survey};
use super::reshards::Reshards;
use super::reshards::places::Wanted;
use super::worker::{Command, WorkerHandle};
use crate::admin::{LentTo, Request};
use crate::backend::pool::{Lending, Seat};
use crate::catalog::schema::Schema;
use crate::catalog::{self, Catalog, Configured, Distribution, Epoch, Foreign, Hearing};
use crate::config::{self, Config, Problem, ServerTls};
use crate::execution::commit::readiness::Readiness;
use crate::execution::commit::recovery::Recovery;
use crate::moving::overlay::{Overlay, Overlays};
use crate::plan::{Placed, views};
use crate::resharding::record::StoredError;
use crate::session::gate::Gate;
use crate::session::report::WorkerReport;
use crate::session::shared::{Moving, Placing, SchemaChange, Shared, Snapshot};
use crate::session::worker::Paused;
use crate::sharding::ShardId;
use crate::store::Lease;
use crate::topology::view::View;
use crate::topology::{Roles, Topology, TopologyError};
use crate::wire::auth::{AuthSecrets, ProcessSecret};
use crate::wire::tls::{ClientEncryption, ServerEncryption};

/// Time between attempts to read definitions from servers that could not be reached.
const RETRY: Duration = Duration::from_secs(1);

/// How often definitions are read without being asked, to see what was changed past the proxy.
const REFRESH: Duration = Duration::from_secs(60);

/// Time between attempts to find shards ready for commits of several that were not, though they could be asked.
const READINESS: Duration = Duration::from_secs(10);

/// How often a pause looks whether connections have come back.
const PAUSE_POLL: Duration = Duration::from_millis(20);

/// Everything that is made from one configuration.
pub struct Plant {
    pub config: Arc<Config>,
    configured: Arc<HashMap<Box<str>, Configured>>,
    client_encryption: ClientEncryption,
    pub server_side: ServerSide,
    auth: Arc<AuthSecrets>,
    roles: Option<Arc<Roles>>,
}

/// What the next configuration takes over from this one where it has not changed.
#[derive(Clone)]
pub struct Inheritance {
    client_encryption: ClientEncryption,
    server_side: ServerSide,
    auth: Arc<AuthSecrets>,
}

/// TLS towards servers, and what it was made from: when that is the same after a reload, connections stay.
#[derive(Clone)]
pub struct ServerSide {
    configured: ServerTls,
    root_certificate: Option<Vec<u8>>,
    pub encryption: Arc<ServerEncryption>,
}

impl ServerSide {
    fn load(configured: &ServerTls, before: Option<&ServerSide>) -> Result<ServerSide, StartError> {
        // A file that cannot be read is reported by the loading below.
        let root_certificate = configured
            .root_certificate
            .as_deref()
            .and_then(|path| std::fs::read(path).ok());
        if let Some(before) = before
            && before.configured == *configured
            && before.root_certificate == root_certificate
        {
            return Ok(before.clone());
        }
        let encryption = Arc::new(ServerEncryption::load(configured)?);
        Ok(ServerSide {
            configured: configured.clone(),
            root_certificate,
            encryption,
        })
    }
}

impl Plant {
    /// Checks a configuration to the end: maps and TLS files too. Takes over from the one before what has not changed. Blocks.
    pub fn build(
        config: Config,
        secret: &ProcessSecret,
        before: Option<&Inheritance>,
    ) -> Result<Plant, StartError> {
        let mut configured = HashMap::new();
        let mut problems = Vec::new();
        for database in &config.databases {
            match catalog::build(&config, &database.name) {
                Ok(built) => {
                    configured.insert(Box::from(&*database.name), built);
                }
                Err(mut found) => problems.append(&mut found),
            }
        }
        if !problems.is_empty() {
            return Err(StartError::Config(problems));
        }
        let client_encryption = ClientEncryption::load(
            &config.listen.tls,
            before.map(|before| &before.client_encryption),
        )?;
        let server_side =
            ServerSide::load(&config.server_tls, before.map(|before| &before.server_side))?;
        let before = before.map(|before| &*before.auth);
        let auth = AuthSecrets::new(secret, &config.users, &client_encryption, before)?;
        let roles = roles(&config, &configured, &server_side, secret);
        Ok(Plant {
            config: Arc::new(config),
            configured: Arc::new(configured),
            client_encryption,
            server_side,
            auth: Arc::new(auth),
            roles,
        })
    }

    /// Has users looked up on the nodes that are found to serve.
    pub fn follow_nodes(&self, topology: &Topology) {
        if let Some(roles) = &self.roles {
            roles.follow(topology.views());
        }
    }

    fn inheritance(&self) -> Inheritance {
        Inheritance {
            client_encryption: self.client_encryption.clone(),
            server_side: self.server_side.clone(),
            auth: Arc::clone(&self.auth),
        }
    }

    /// The snapshot with what is known of the servers' definitions.
    pub fn snapshot(
        &self,
        schemas: &HashMap<Box<str>, Schema>,
        readiness: Arc<Known>,
        view: &Arc<View>,
        moving: &MovingKeys,
        epoch: Epoch,
    ) -> Snapshot {
        // One of another configuration speaks of other shards.
        let view = if Arc::ptr_eq(&view.config, &self.config) {
            Arc::clone(view)
        } else {
            Arc::new(View::unseen(&self.config))
        };
        Snapshot {
            config: Arc::clone(&self.config),
            catalogs: self.catalogs(schemas, moving, epoch),
            client_encryption: self.client_encryption.clone(),
            server_encryption: Arc::clone(&self.server_side.encryption),
            auth: Arc::clone(&self.auth),
            roles: self.roles.clone(),
            readiness,
            view,
            moving: moving.for_sessions(),
        }
    }

    fn catalogs(
        &self,
        schemas: &HashMap<Box<str>, Schema>,
        moving: &MovingKeys,
        epoch: Epoch,
    ) -> HashMap<Box<str>, Arc<Catalog>> {
        let mut catalogs = HashMap::new();
        for (name, configured) in &*self.configured {
            let mut configured = configured.clone();
            if let Some(overlay) = moving.overlays.get(name) {
                match served(overlay, &configured) {
                    Ok((distributions, foreign)) => {
                        configured.distributions = distributions;
                        configured.foreign = foreign;
                    }
                    // Nothing that fits is taken over, neither here nor by a reload.
                    Err(error) => {
                        tracing::error!(database = &**name, %error, "the maps in force cannot be served");
                    }
                }
            }
            if let Some(overlay) = moving.overlays.get(name) {
                // What does not fit is refused.
                configured.place(&overlay.places);
            }
            let (mut catalog, warnings) = Catalog::assemble(configured, schemas.get(name), epoch);
            views::place(&mut catalog);
            catalog.hearing = moving.hearing_of(name);
            for warning in warnings {
                tracing::warn!(database = &**name, "{warning}");
            }
            catalogs.insert(name.clone(), Arc::new(catalog));
        }
        catalogs
    }
}

/// What moves between shards, as this process knows it.
#[derive(Clone, Default)]
pub struct MovingKeys {
    pub overlays: Arc<Overlays>,
    /// This process is alive, as far as others know.
    pub tenure: Option<Arc<Lease>>,
    /// Whether there may be others.
    pub fleet: Fleet,
}

/// Whether proxies have a common control store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fleet {
    #[default]
    Alone,
    Shared,
}

impl MovingKeys {
    /// Whether others may give tables their places. Where none ever got one, nothing is to be heard.
    fn is_told(&self) -> bool {
        let mut overlays = self.overlays.values();
        self.fleet == Fleet::Shared && overlays.any(has_places)
    }

    fn hearing(&self) -> Hearing {
        let held = self.tenure.as_ref().is_some_and(|tenure| tenure.is_held());
        match held || !self.is_told() {
            true => Hearing::Yes,
            false => Hearing::No,
        }
    }

    fn hearing_of(&self, database: &str) -> Hearing {
        match self.overlays.get(database).is_some_and(has_places) {
            true => self.hearing(),
            false => Hearing::Yes,
        }
    }

    /// Ends when others are not heard any more, at once when they are not; never when that has been published.
    async fn lost(&self, published: Hearing) {
        match (&self.tenure, published) {
            (Some(tenure), Hearing::Yes) if self.is_told() => tenure.lost().await,
            _ => std::future::pending().await,
        }
    }

    /// Why a configuration cannot be served by the maps that are in force.
    fn problems(&self, plant: &Plant) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (name, configured) in &*plant.configured {
            let Some(overlay) = self.overlays.get(name) else {
                continue;
            };
            if let Err(error) = overlay.distributions(&configured.distributions, &configured.shards)
            {
                let said = format!("database {name}: the map in force does not fit: {error}");
                problems.push(plant.config.problem(config::Line(0), "", said));
            }
            let mut fitted = configured.clone();
            fitted.place(&overlay.places);
            for ((schema, table), misfit) in &fitted.misfits {
                let said = format!(
                    "database {name}: table {schema}.{table} was given a place that does not fit: {misfit}"
                );
                problems.push(plant.config.problem(config::Line(0), "", said));
            }
            for (schema, table) in configured.placed_otherwise(&overlay.places) {
                tracing::warn!(
                    database = &**name,
                    "table {schema}.{table} is not where the configuration has it but where it was put (SHOW TABLES); the configuration has no effect"
                );
            }
            for distribution in overlay.away_from(&configured.distributions, &configured.shards) {
                tracing::warn!(
                    database = &**name,
                    distribution = &*distribution,
                    "the map in the configuration is not the one in force: RESHARD PLAN ... FROM CONFIG moves the rows; until then it has no effect"
                );
            }
        }
        problems
    }

    fn for_sessions(&self) -> Arc<HashMap<Box<str>, Moving>> {
        let each = self.overlays.iter().map(|(name, overlay)| {
            let moving = Moving {
                plans: overlay.plans.clone(),
                gate: match overlay.closed.is_empty() {
                    true => Gate::Open,
                    false => Gate::Closed,
                },
                tenure: self.tenure.clone(),
            };
            (name.clone(), moving)
        });
        Arc::new(each.collect())
    }
}

/// Whether a table of the database was ever given a place.
fn has_places(overlay: &Overlay) -> bool {
    overlay.places_epoch > 0
}

/// What moves has changed; answered when every worker knows.
pub struct Moved {
    pub keys: MovingKeys,
    pub done: oneshot::Sender<()>,
}

/// Where users are looked up that are not configured: on the home shard of the first database.
fn roles(
    config: &Config,
    configured: &HashMap<Box<str>, Configured>,
    server_side: &ServerSide,
    secret: &ProcessSecret,
) -> Option<Arc<Roles>> {
    let query = config.authentication.query.as_ref()?;
    let first = config.databases.first()?;
    let home = configured.get(&*first.name)?.home;
    let encryption = Arc::clone(&server_side.encryption);
    let roles = Roles::new(config, query, home, encryption, secret.clone());
    Some(Arc::new(roles))
}

/// The control plane's state; one task owns it.
pub struct Control {
    pub path: Option<PathBuf>,
    pub plant: Plant,
    pub epoch: Epoch,
    pub shared: Arc<Shared>,
    pub topology: Arc<Topology>,
    pub workers: Vec<WorkerHandle>,
    pub requests: mpsc::UnboundedReceiver<Request>,
    pub changes: mpsc::UnboundedReceiver<SchemaChange>,
    pub placing: mpsc::UnboundedReceiver<Placing>,
    pub definitions: Definitions,
    pub readiness: Survey,
    pub recovery: Arc<Recovery>,
    pub failover: Arc<Failover>,
    pub moving: MovingKeys,
    pub moved: mpsc::UnboundedReceiver<Moved>,
    pub reshards: Arc<Reshards>,
    pub elsewhere: Arc<Elsewhere>,
    /// Databases whose definitions were changed through another proxy.
    pub heard: mpsc::UnboundedReceiver<Box<str>>,
    /// What workers know of whether others are heard of.
    pub published: Hearing,
}

/// What the servers define, by database, and the reading of it: one at a time for each database, beside everything else.
#[derive(Default)]
pub struct Definitions {
    known: HashMap<Box<str>, Schema>,
    reading: JoinSet<(Box<str>, Result<Schema, TopologyError>)>,
    /// Who waits for a reading that has begun after they asked.
    asked: HashMap<Box<str>, Asked>,
}

/// The state of one database's reading.
#[derive(Default)]
struct Asked {
    /// Told by the reading under way.
    now: Vec<oneshot::Sender<()>>,
    /// Asked while a reading was under way: it may have missed their change.
    next: Option<Vec<oneshot::Sender<()>>>,
}

impl Definitions {
    /// Reads a database's definitions; whoever waits is told when they are in force, or could not be read.
    fn read(
        &mut self,
        database: &str,
        topology: &Arc<Topology>,
        waiting: Vec<oneshot::Sender<()>>,
    ) {
        if let Some(asked) = self.asked.get_mut(database) {
            asked.next.get_or_insert_default().extend(waiting);
            return;
        }
        self.asked.insert(
            Box::from(database),
            Asked {
                now: waiting,
                next: None,
            },
        );
        let (topology, database) = (Arc::clone(topology), Box::from(database));
        self.reading.spawn(async move {
            let schema = topology.read_schema(&database).await;
            (database, schema)
        });
    }
}

impl Control {
    /// Serves requests until one asks for the end.
    pub async fn run(mut self) {
        let mut refresh = tokio::time::interval(REFRESH);
        let mut retry = tokio::time::interval(RETRY);
        let mut readiness = tokio::time::interval(READINESS);
        let mut views = self.topology.views();
        retry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let tenure = self.moving.clone();
            let lost = tenure.lost(self.published);
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(Request::Shutdown) | None => return,
                    Some(request) => self.serve(request).await,
                },
                Ok(()) = views.changed() => self.publish_view(),
                Some(moved) = self.moved.recv() => self.follow_moves(moved).await,
                () = lost => self.publish().await,
                Some(change) = self.changes.recv() => {
                    self.elsewhere.tell(&change.database);
                    self.definitions.read(&change.database, &self.topology, vec![change.followed]);
                }
                Some(placing) = self.placing.recv() => self.place(placing),
                Some(database) = self.heard.recv() => {
                    if self.plant.configured.contains_key(&database) {
                        self.shared.definitions_changed();
                        self.definitions.read(&database, &self.topology, Vec::new());
                    }
                }
                Some(Ok((database, schema))) = self.definitions.reading.join_next() => self.read(database, schema).await,
                changed = self.readiness.answer() => if changed {
                    self.publish().await;
                },
                _ = retry.tick() => {
                    self.read_all(|known| !known);
                    let away = |shard: &Readiness| matches!(shard, Readiness::Unknown(_));
                    self.readiness.ask(&self.topology, |known| known.iter().any(away));
                }
                _ = readiness.tick() => {
                    let unready = |shard: &Readiness| *shard != Readiness::Ready;
                    self.readiness.ask(&self.topology, |known| known.iter().any(unready));
                }
                _ = refresh.tick() => {
                    self.read_all(|_| true);
                    self.readiness.ask(&self.topology, |_| true);
                }
            }
        }
    }

    /// Begins to read the definitions of the databases for which that is wanted, given whether they are known.
    fn read_all(&mut self, wanted: impl Fn(bool) -> bool) {
        for database in self.plant.configured.keys() {
            let under_way = self.definitions.asked.contains_key(database);
            if !under_way && wanted(self.definitions.known.contains_key(database)) {
                self.definitions.read(database, &self.topology, Vec::new());
            }
        }
    }

    /// A reading has ended.
    async fn read(&mut self, database: Box<str>, schema: Result<Schema, TopologyError>) {
        match schema {
            // Of tables that others have made it would not be known where they belong.
            Ok(schema)
                if self.moving.hearing() == Hearing::No && self.has_more(&database, &schema) =>
            {
                tracing::warn!(
                    database = &*database,
                    "there are new tables, and the control store, which knows where they belong, is lost"
                );
            }
            Ok(schema) => {
                let news = self.definitions.known.get(&database) != Some(&schema);
                self.definitions.known.insert(database.clone(), schema);
                if news {
                    self.publish().await;
                }
            }
            Err(error) => {
                tracing::warn!(database = &*database, %error, "cannot read the servers' definitions")
            }
        }
        let Some(asked) = self.definitions.asked.remove(&database) else {
            return;
        };
        for waiting in asked.now {
            // Who waited may have gone.
            let _ = waiting.send(());
        }
        if let Some(waiting) = asked.next {
            self.definitions.read(&database, &self.topology, waiting);
        }
    }

    /// A client creates a table and says where its rows belong.
    fn place(&self, placing: Placing) {
        let (reshards, configured) = (
            Arc::clone(&self.reshards),
            Arc::clone(&self.plant.configured),
        );
        tokio::spawn(async move {
            let Placed {
                table,
                place,
                passed_over,
            } = placing.placed;
            let wanted = Wanted {
                table,
                place,
                role: Some(placing.role),
                passed_over,
            };
            let done = reshards.place(&placing.database, &wanted, &configured);
            // The client may have gone.
            let _ = placing
                .done
                .send(done.await.map_err(|refused| match refused.hint {
                    Some(hint) => format!("{}. {hint}", refused.message),
                    None => refused.message,
                }));
        });
    }

    /// Whether there are relations that were not there before.
    fn has_more(&self, database: &str, schema: &Schema) -> bool {
        let known = self.definitions.known.get(database);
        known.is_some_and(|known| {
            let mut names = schema.relations.keys();
            names.any(|name| !known.relations.contains_key(name))
        })
    }

    async fn serve(&mut self, request: Request) {
        match request {
            Request::Report(answer) => {
                let workers = self.workers.clone();
                tokio::spawn(async move {
                    let _ = answer.send(ask_all(&workers, Command::Report).await);
                });
            }
            Request::Reload(answer) => {
                let _ = answer.send(self.reload().await);
            }
            Request::Pause(database, answer) => {
                let workers = self.workers.clone();
                for worker in &workers {
                    worker.send(Command::SetPaused(database.clone(), Paused::Yes));
                }
                tokio::spawn(async move {
                    while !answer.is_closed() {
                        let quiet =
                            ask_all(&workers, |quiet| Command::IsQuiet(database.clone(), quiet))
                                .await;
                        if quiet.into_iter().all(|quiet| quiet) {
                            let _ = answer.send(());
                            return;
                        }
                        tokio::time::sleep(PAUSE_POLL).await;
                    }
                });
            }
            Request::Resume(database, answer) => {
                for worker in &self.workers {
                    worker.send(Command::SetPaused(database.clone(), Paused::No));
                }
                let _ = answer.send(());
            }
            Request::Cancel {
                process_id,
                key,
                done,
            } => {
                let place = self.shared.find(process_id, &key);
                if let Some((worker, card)) =
                    place.and_then(|place| Some((self.workers.get(place.worker)?, place.card)))
                {
                    worker.send(Command::Cancel(card, done));
                }
            }
            Request::Resolve {
                id,
                by_hand,
                answer,
            } => {
                let recovery = Arc::clone(&self.recovery);
                tokio::spawn(async move {
                    let _ = answer.send(recovery.resolve(id, by_hand).await);
                });
            }
            Request::Switchover {
                shard,
                node,
                answer,
            } => {
                let failover = Arc::clone(&self.failover);
                // It goes on when whoever asked has gone.
                tokio::spawn(async move {
                    let _ = answer.send(failover.switchover(&shard, &node).await);
                });
            }
            Request::Lent(shard, answer) => {
                let view = self.topology.views().borrow().clone();
                let is_gated = view
                    .shard(shard)
                    .is_some_and(|shard| shard.primary.is_none());
                if !is_gated || !Arc::ptr_eq(&view.config, &self.plant.config) {
                    let _ = answer.send(None);
                    return;
                }
                // Each worker hears of the gate before it is asked.
                self.publish_view();
                let workers = self.workers.clone();
                tokio::spawn(async move {
                    let reports = ask_all(&workers, Command::Report).await;
                    let _ = answer.send(lent(&reports, shard));
                });
            }
            Request::Reshard(statement, answer) => {
                let reshards = Arc::clone(&self.reshards);
                let catalogs = self.shared.snapshot();
                let configured = self.configured();
                tokio::spawn(async move {
                    let _ = answer.send(reshards.execute(statement, &catalogs, &configured).await);
                });
            }
            Request::Place {
                database,
                table,
                place,
                answer,
            } => {
                let (reshards, configured) = (
                    Arc::clone(&self.reshards),
                    Arc::clone(&self.plant.configured),
                );
                tokio::spawn(async move {
                    let done = match place {
                        Some(place) => {
                            let wanted = Wanted {
                                table,
                                place,
                                role: None,
                                passed_over: Vec::new(),
                            };
                            reshards.place(&database, &wanted, &configured).await
                        }
                        None => reshards.forget_place(&database, &table, &configured).await,
                    };
                    let _ = answer.send(done);
                });
            }
            // Seen by `run`.
            Request::Shutdown => {}
        }
    }

    /// What is configured, with the tables that were given a place.
    fn configured(&self) -> HashMap<Box<str>, Configured> {
        let mut configured = HashMap::clone(&self.plant.configured);
        for (name, configured) in &mut configured {
            if let Some(overlay) = self.moving.overlays.get(name) {
                // What does not fit is refused everywhere.
                configured.place(&overlay.places);
            }
        }
        configured
    }

    /// Reads the file again. A mistake anywhere changes nothing.
    async fn reload(&mut self) -> Result<(), Vec<Problem>> {
        let Some(path) = self.path.clone() else {
            return Ok(());
        };
        let (before, secret) = (self.plant.inheritance(), self.shared.secret.clone());
        let loaded = tokio::task::spawn_blocking(move || {
            let config = catalog::load(&path)?;
            let problem = |error: &dyn std::fmt::Display| {
                vec![config.problem(config::Line(0), "", error.to_string())]
            };
            match Plant::build(config.clone(), &secret, Some(&before)) {
                Ok(plant) => Ok(plant),
                Err(StartError::Config(problems)) => Err(problems),
                Err(other) => Err(problem(&other)),
            }
        });
        let plant = match loaded.await {
            Ok(Ok(plant)) => match self.moving.problems(&plant) {
                problems if problems.is_empty() => plant,
                problems => {
                    for problem in &problems {
                        tracing::error!("{problem}");
                    }
                    return Err(problems);
                }
            },
            Ok(Err(problems)) => {
                for problem in &problems {
                    tracing::error!("{problem}");
                }
                return Err(problems);
            }
            Err(error) => {
                tracing::error!(%error, "reload");
                return Ok(());
            }
        };
        for kept in restart_only(&self.plant.config, &plant.config) {
            tracing::warn!("{kept} takes effect after a restart");
        }
        self.plant = plant;
        self.topology
            .follow(&self.plant.config, &self.plant.server_side.encryption);
        self.plant.follow_nodes(&self.topology);
        self.definitions
            .known
            .retain(|name, _| self.plant.configured.contains_key(name));
        self.readiness.follow(&self.plant.config);
        self.publish().await;
        self.read_all(|_| true);
        self.readiness.ask(&self.topology, |_| true);
        tracing::info!("the configuration was read again");
        Ok(())
    }

    /// Puts other primaries or replicas in force on every worker, without a wait for any of them.
    fn publish_view(&self) {
        let view = self.topology.views().borrow().clone();
        if !Arc::ptr_eq(&view.config, &self.plant.config) {
            return;
        }
        let snapshot = Arc::new(self.shared.snapshot().with_view(view));
        self.shared.replace(Arc::clone(&snapshot));
        for worker in &self.workers {
            worker.send(Command::FollowView(Arc::clone(&snapshot)));
        }
    }

    /// Puts other maps or gates in force on every worker.
    async fn follow_moves(&mut self, moved: Moved) {
        let heard = self.published;
        let before = std::mem::replace(&mut self.moving, moved.keys);
        if heard != self.moving.hearing() {
            // What was made meanwhile was not looked at.
            self.read_all(|_| true);
        }
        let nothing = Overlay::default();
        let other_places = self.plant.configured.keys().any(|name| {
            let was = before.overlays.get(name).unwrap_or(&nothing);
            let is = self.moving.overlays.get(name).unwrap_or(&nothing);
            was.places != is.places
        });
        if other_places || heard != self.moving.hearing() {
            self.publish().await;
            // Who asked may have gone.
            let _ = moved.done.send(());
            return;
        }
        let other_maps = self.plant.configured.keys().any(|name| {
            let was = before.overlays.get(name).unwrap_or(&nothing);
            let is = self.moving.overlays.get(name).unwrap_or(&nothing);
            is.has_other_maps(was)
        });
        let snapshot = self
            .shared
            .snapshot()
            .with_moving(self.moving.for_sessions());
        if other_maps {
            self.epoch = Epoch(self.epoch.0 + 1);
            let catalogs = self.remapped(&snapshot.catalogs);
            self.replace(Snapshot {
                catalogs,
                ..snapshot
            })
            .await;
        } else {
            let snapshot = Arc::new(snapshot);
            self.shared.replace(Arc::clone(&snapshot));
            ask_all(&self.workers, |done| {
                Command::FollowGates(Arc::clone(&snapshot), done)
            })
            .await;
        }
        // Who asked may have gone.
        let _ = moved.done.send(());
    }

    /// The same catalogs by the maps of now. Whatever else a catalog holds does not hang on them.
    fn remapped(
        &self,
        catalogs: &HashMap<Box<str>, Arc<Catalog>>,
    ) -> HashMap<Box<str>, Arc<Catalog>> {
        let nothing = Overlay::default();
        let mut remapped = HashMap::new();
        for (name, catalog) in catalogs {
            let overlay = self.moving.overlays.get(name).unwrap_or(&nothing);
            let configured = &self.plant.configured[name];
            let mut catalog = Catalog::clone(catalog);
            catalog.epoch = self.epoch;
            match served(overlay, configured) {
                Ok((distributions, foreign)) => {
                    catalog.distributions = distributions;
                    catalog.foreign = foreign;
                }
                Err(error) => {
                    tracing::error!(database = &**name, %error, "the maps in force cannot be served");
                }
            }
            remapped.insert(name.clone(), Arc::new(catalog));
        }
        remapped
    }

    /// Puts a new snapshot in force on every worker.
    pub async fn publish(&mut self) {
        self.published = self.moving.hearing();
        self.epoch = Epoch(self.epoch.0 + 1);
        let snapshot = self.plant.snapshot(
            &self.definitions.known,
            self.readiness.known(),
            &self.topology.views().borrow(),
            &self.moving,
            self.epoch,
        );
        self.replace(snapshot).await;
    }

    async fn replace(&self, snapshot: Snapshot) {
        let snapshot = Arc::new(snapshot);
        self.shared.replace(Arc::clone(&snapshot));
        ask_all(&self.workers, |done| {
            Command::Follow(Arc::clone(&snapshot), done)
        })
        .await;
    }
}

/// A database's distributions by the maps in force, and what rows are where they do not belong.
fn served(
    overlay: &Overlay,
    configured: &Configured,
) -> Result<(Arc<[Distribution]>, Foreign), StoredError> {
    let distributions = overlay.distributions(&configured.distributions, &configured.shards)?;
    let foreign = Overlay::foreign(&distributions)?;
    Ok((distributions, foreign))
}

/// Settings whose change needs a restart.
fn restart_only(old: &Config, new: &Config) -> Vec<&'static str> {
    let mut changed = Vec::new();
    if old.workers != new.workers {
        changed.push("workers");
    }
    if old.listen.addresses != new.listen.addresses {
        changed.push("listen.addresses");
    }
    if old.listen.unix_socket_directory != new.listen.unix_socket_directory {
        changed.push("listen.unix_socket_directory");
    }
    if old.listen.http != new.listen.http {
        changed.push("listen.http");
    }
    if old.log != new.log {
        changed.push("log");
    }
    if old.store != new.store || old.store_use != new.store_use {
        changed.push("store");
    }
    if old.limits.shutdown_timeout != new.limits.shutdown_timeout {
        changed.push("limits.shutdown_timeout");
    }
    changed
}

/// The connections to a shard's primary that clients have, or that are being made; `None`: there is a pool that lends.
fn lent(reports: &[WorkerReport], shard: ShardId) -> Option<Vec<LentTo>> {
    let pools = reports.iter().flat_map(|report| &report.pools);
    let mut lent = Vec::new();
    for pool in pools.filter(|pool| pool.shard == shard && pool.seat == Seat::Primary) {
        if pool.lending == Lending::Open {
            return None;
        }
        let connections = pool.census.lent + pool.census.connecting;
        if connections > 0 {
            lent.push(LentTo {
                user: pool.user.clone(),
                database: pool.database.clone(),
                connections,
            });
        }
    }
    Some(lent)
}

/// Asks every worker and waits for all answers; a worker that is gone gives none.
pub async fn ask_all<T>(
    workers: &[WorkerHandle],
    command: impl Fn(oneshot::Sender<T>) -> Command,
) -> Vec<T> {
    let mut answers = Vec::new();
    for worker in workers {
        let (answer, answered) = oneshot::channel();
        worker.send(command(answer));
        answers.push(answered);
    }
    let mut told = Vec::new();
    for answer in answers {
        if let Ok(answer) = answer.await {
            told.push(answer);
        }
    }
    told
}
