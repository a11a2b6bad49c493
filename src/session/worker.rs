//! What the sessions of one thread share: pools, plan caches, prepared statements, counters. Nothing here is locked.

use std::cell::{Cell, Ref, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::card::{Cards, Overstay};
use super::gate::Gate;
use super::latency::{Counts, Latency};
use super::listener::Listener;
use super::numbers::Stock;
use super::parse_scope::ParseScopes;
use super::shared::{Moving, Shared, Snapshot};
use super::statement::Statements;
use super::waits::Several;
use crate::backend::cancel::Target;
use crate::backend::connect::{Address, ConnectError, Login};
use crate::backend::pipeline::Event;
use crate::backend::pool::{Away, Lending, Pool, Seat, Spec, Spotted, Witness};
use crate::backend::settings::{Reported, Settings};
use crate::catalog::Catalog;
use crate::config::{self, Config, User};
use crate::plan::PlanCache;
use crate::sharding::ShardId;
use crate::topology::view::{NodePlace, Seen, ShardView, Sighting, Stage, View};
use crate::wire::auth::Credential;
use crate::wire::socket::Home;

/// Bytes of the read buffer that all sessions of a thread use in turn.
const SCRATCH: usize = 64 * 1024;

/// How long a request runs before its session looks whether the client is still there.
const OVERDUE: Duration = Duration::from_millis(100);

/// How often what users left behind is given back.
const TIDY: Duration = Duration::from_secs(10);

/// How many greetings are remembered for logins, per database.
const GREETINGS: usize = 256;

/// One thread of the data plane, as its sessions see it.
pub struct Worker {
    pub index: usize,
    /// The number of workers in the process.
    pub count: usize,
    pub shared: Arc<Shared>,
    /// The thread itself.
    pub home: Home,
    snapshot: RefCell<Arc<Snapshot>>,
    /// Borrowed only inside one poll.
    pub scratch: RefCell<Box<[u8]>>,
    databases: RefCell<HashMap<Box<str>, Rc<Database>>>,
    pools: RefCell<HashMap<PoolKey, Rc<Pool>>>,
    pub listeners: RefCell<HashMap<PoolKey, Rc<Listener>>>,
    /// By name: users that have pools or sessions on this thread.
    users: RefCell<HashMap<Box<str>, Known>>,
    pub statements: RefCell<Statements>,
    pub cards: Cards,
    /// Those whose sessions work on several shards.
    pub several: Several,
    /// Room for what a server brings to light, which no idle session needs for itself.
    pub room_for_events: Cell<Vec<Event>>,
    /// Counts the configurations that were followed.
    pub configured: Cell<u64>,
    /// Counts the changes of gates.
    gates: watch::Sender<u64>,
    draining: Cell<bool>,
    tidied_at: Cell<Instant>,
}

/// What the last login of a user has shown.
struct Known {
    user: Rc<User>,
    credential: Option<Credential>,
    present: Presence,
}

/// Held by every session of a user: while there is one, what is known of the user is kept.
#[derive(Clone)]
pub struct Presence(Rc<()>);

impl Presence {
    fn is_shared(&self) -> bool {
        Rc::strong_count(&self.0) > 1
    }
}

/// What tells pools apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    pub database: Box<str>,
    pub user: Box<str>,
    pub shard: ShardId,
    pub seat: Seat,
}

/// A database as the sessions of one thread see it.
pub struct Database {
    pub name: Box<str>,
    catalog: RefCell<Arc<Catalog>>,
    pub plans: RefCell<PlanCache>,
    pub counters: Counters,
    greetings: RefCell<Vec<Greeting>>,
    /// The `search_path` of new connections, by user.
    search_paths: RefCell<HashMap<Box<str>, Box<str>>>,
    pub parse_scopes: RefCell<ParseScopes>,
    paused: Cell<bool>,
    /// A client has asked for a sequence's last value.
    pub asks_last_values: Cell<bool>,
    /// Taken from sequences for statements to come.
    pub numbers: RefCell<Stock>,
}

/// What a server reported to a connection of this user with these settings.
struct Greeting {
    user: Box<str>,
    settings: Settings,
    reported: Reported,
}

/// Counted since the start, for SHOW STATS.
#[derive(Debug, Default)]
pub struct Counters {
    pub transactions: Cell<u64>,
    pub queries: Cell<u64>,
    /// Those of them that replicas answered.
    pub replica_queries: Cell<u64>,
    pub received_bytes: Cell<u64>,
    pub sent_bytes: Cell<u64>,
    pub transaction_microseconds: Cell<u64>,
    pub query_microseconds: Cell<u64>,
    pub latency: Latency,
    pub wait_microseconds: Cell<u64>,
    /// Connections that were lent to sessions.
    pub assignments: Cell<u64>,
    pub logins: Cell<u64>,
    /// Statements that clients prepared, that servers were given, and that were bound.
    pub client_parses: Cell<u64>,
    pub server_parses: Cell<u64>,
    pub binds: Cell<u64>,
    pub refusals: Cell<u64>,
    pub errors: Cell<u64>,
    pub client_idle_timeouts: Cell<u64>,
    pub idle_transaction_timeouts: Cell<u64>,
    pub query_timeouts: Cell<u64>,
    /// Statements that were ended because they were in a deadlock.
    pub deadlocks: Cell<u64>,
}

impl Counters {
    /// A session ends because of a time limit. A statement that was too long has been counted when it was cancelled.
    pub fn overstayed(&self, overstay: Overstay) {
        match overstay {
            Overstay::Idle => add(&self.client_idle_timeouts, 1),
            Overstay::IdleInTransaction => add(&self.idle_transaction_timeouts, 1),
            Overstay::Query => {}
        }
    }
}

/// Adds to a counter.
pub fn add(counter: &Cell<u64>, amount: u64) {
    counter.set(counter.get().wrapping_add(amount));
}

impl Worker {
    pub fn new(index: usize, count: usize, shared: Arc<Shared>, home: Home) -> Rc<Worker> {
        let snapshot = shared.snapshot();
        Rc::new(Worker {
            index,
            count,
            shared,
            home,
            snapshot: RefCell::new(snapshot),
            scratch: RefCell::new(vec![0; SCRATCH].into_boxed_slice()),
            databases: RefCell::default(),
            pools: RefCell::default(),
            listeners: RefCell::default(),
            users: RefCell::default(),
            statements: RefCell::default(),
            cards: Cards::default(),
            several: Several::default(),
            room_for_events: Cell::default(),
            configured: Cell::new(0),
            gates: watch::Sender::new(0),
            draining: Cell::new(false),
            tidied_at: Cell::new(Instant::now()),
        })
    }

    pub fn snapshot(&self) -> Ref<'_, Arc<Snapshot>> {
        self.snapshot.borrow()
    }

    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.snapshot.borrow().config)
    }

    /// The database of this name, if it is configured.
    pub fn database(&self, name: &str) -> Option<Rc<Database>> {
        if let Some(database) = self.databases.borrow().get(name) {
            return Some(Rc::clone(database));
        }
        let snapshot = self.snapshot.borrow();
        let catalog = snapshot.catalogs.get(name)?;
        let bytes = usize::try_from(snapshot.config.limits.plan_cache_size.0).unwrap_or(usize::MAX);
        let database = Rc::new(Database {
            name: Box::from(name),
            catalog: RefCell::new(Arc::clone(catalog)),
            plans: RefCell::new(PlanCache::new(bytes)),
            counters: Counters::default(),
            greetings: RefCell::default(),
            search_paths: RefCell::default(),
            parse_scopes: RefCell::default(),
            paused: Cell::new(false),
            asks_last_values: Cell::new(false),
            numbers: RefCell::default(),
        });
        self.databases
            .borrow_mut()
            .insert(Box::from(name), Rc::clone(&database));
        Some(database)
    }

    /// Every database that a client of this thread has used.
    pub fn databases(&self) -> Vec<Rc<Database>> {
        self.databases.borrow().values().cloned().collect()
    }

    /// The pool of this user, database and seat; made when it is first asked for.
    pub fn pool(
        &self,
        database: &Database,
        user: &config::User,
        shard: ShardId,
        seat: Seat,
    ) -> Option<Rc<Pool>> {
        let key = PoolKey {
            database: database.name.clone(),
            user: Box::from(&*user.name),
            shard,
            seat,
        };
        if let Some(pool) = self.pools.borrow().get(&key) {
            return Some(Rc::clone(pool));
        }
        let pool = Pool::new(self.spec(&key)?, self.witness(shard));
        self.let_lend(&key, &pool);
        self.pools.borrow_mut().insert(key, Rc::clone(&pool));
        Some(pool)
    }

    /// Whether somebody is known to take this shard's writes.
    pub fn has_primary(&self, shard: ShardId) -> bool {
        let snapshot = self.snapshot();
        let view = snapshot.view.shard(shard);
        view.is_some_and(|view| view.primary.is_some())
    }

    /// Tells whoever watches the nodes what a pool of this shard has seen.
    fn witness(&self, shard: ShardId) -> Witness {
        let shared = Arc::clone(&self.shared);
        Box::new(move |node, spotted| {
            let seen = match spotted {
                Spotted::Reached => Seen::Reached,
                Spotted::Unreachable(error) => match *error {
                    ConnectError::Standby => Seen::ReadOnly,
                    ref other => Seen::Unreachable(other.to_string()),
                },
            };
            shared.sighted(Sighting {
                shard,
                node: NodePlace(node),
                seen,
            });
        })
    }

    /// Whether the pool lends, as things stand.
    fn let_lend(&self, key: &PoolKey, pool: &Rc<Pool>) {
        let databases = self.databases.borrow();
        let paused = databases
            .get(&key.database)
            .is_some_and(|database| database.paused.get());
        let snapshot = self.snapshot.borrow();
        let leaderless = snapshot
            .view
            .shard(key.shard)
            .filter(|view| key.seat == Seat::Primary && view.primary.is_none());
        match (paused, leaderless) {
            (true, _) => pool.set_lending(Lending::Paused),
            (false, Some(view)) => pool.lose_primary(view.trouble.as_deref().unwrap_or_default()),
            (false, None) if pool.lending() != Lending::Open => pool.set_lending(Lending::Open),
            (false, None) => {}
        }
    }

    pub fn pools(&self) -> Vec<(PoolKey, Rc<Pool>)> {
        self.pools
            .borrow()
            .iter()
            .map(|(key, pool)| (key.clone(), Rc::clone(pool)))
            .collect()
    }

    /// A user has logged in. What that has shown of it is good for its connections from now on, older sessions' as well. What is configured of it is the
    /// same for all its sessions, and there once.
    pub fn welcome(&self, user: Rc<User>, credential: Option<Credential>) -> (Rc<User>, Presence) {
        let mut users = self.users.borrow_mut();
        let before = users.remove(&*user.name);
        let user = match &before {
            Some(before) if before.user == user => Rc::clone(&before.user),
            _ => user,
        };
        let known = before.as_ref().and_then(|before| before.credential.clone());
        let news = credential.is_some() && credential != known;
        let name: Box<str> = Box::from(&*user.name);
        let present = before.map_or_else(|| Presence(Rc::new(())), |before| before.present);
        let known = Known {
            user: Rc::clone(&user),
            credential: credential.or(known),
            present: present.clone(),
        };
        users.insert(name.clone(), known);
        drop(users);
        if news {
            for (key, pool) in self.pools().into_iter().filter(|(key, _)| key.user == name) {
                if let Some(spec) = self.spec(&key) {
                    pool.reconfigure(spec, Away::Later);
                }
            }
        }
        (user, present)
    }

    /// The role on servers, and what it shows them.
    fn login_of(&self, name: &str) -> Option<(Rc<User>, Option<Credential>)> {
        let snapshot = self.snapshot.borrow();
        let users = self.users.borrow();
        let known = users.get(name);
        let user = match (snapshot.user(name), known) {
            (Some((user, _)), _) => Rc::new(user.clone()),
            (None, Some(known)) if snapshot.roles.is_some() => Rc::clone(&known.user),
            (None, _) => return None,
        };
        let configured = user.server_password.clone().map(Credential::Password);
        let shown = known.and_then(|known| known.credential.clone());
        // An md5 hash has the name in it.
        let shown = shown.filter(|shown| match shown {
            Credential::Md5(_) => user.server_user == user.name,
            Credential::Password(_) | Credential::Scram(_) => true,
        });
        Some((user, configured.or(shown)))
    }

    /// Where and how the connections of a pool are made; `None` when its user, database, shard or node is gone.
    pub fn spec(&self, key: &PoolKey) -> Option<Spec> {
        let snapshot = self.snapshot.borrow();
        let config = &snapshot.config;
        let (user, credential) = self.login_of(&key.user)?;
        let database = config
            .databases
            .iter()
            .find(|database| *database.name == *key.database)?;
        let view = snapshot.view.shard(key.shard)?;
        let place = match key.seat {
            // Without one nothing is lent, so it does not matter where.
            Seat::Primary => view.primary.unwrap_or(NodePlace(0)),
            Seat::Replica(place) => NodePlace(place),
        };
        let node = config.shards.get(key.shard.index())?.nodes.get(place.0)?;
        let mut settings = config.pool.clone();
        settings.mode = user
            .pool_mode
            .or(database.pool_mode)
            .unwrap_or(settings.mode);
        settings.size = user
            .pool_size
            .or(database.pool_size)
            .unwrap_or(settings.size);
        let share = (settings.size / self.count
            + usize::from(self.index < settings.size % self.count))
        .max(1);
        let target = Target {
            address: Address {
                host: node.host.clone(),
                port: node.port,
            },
            login: Login {
                user: user.server_user.clone(),
                credential,
                database: node
                    .database
                    .clone()
                    .unwrap_or_else(|| database.server_database.clone()),
                application_name: None,
                parameters: Vec::new(),
            },
            encryption: Arc::clone(&snapshot.server_encryption),
            home: self.home.clone(),
            timers: self.shared.timers.clone(),
            timeout: settings.connect_timeout,
        };
        Some(Spec {
            shard: key.shard,
            seat: key.seat,
            node: place.0,
            target,
            patience: match key.seat {
                Seat::Primary => config.failover.wait,
                // A read has other places to go to.
                Seat::Replica(_) => Duration::ZERO,
            },
            settings,
            share,
        })
    }

    /// A new configuration or catalog: pools and databases follow; those that are gone are closed.
    pub fn follow(&self, snapshot: Arc<Snapshot>) {
        let before = self.snapshot.replace(Arc::clone(&snapshot));
        self.configured.set(self.configured.get() + 1);
        self.databases
            .borrow_mut()
            .retain(|name, database| match snapshot.catalogs.get(name) {
                Some(catalog) => {
                    *database.catalog.borrow_mut() = Arc::clone(catalog);
                    database.forget_servers();
                    true
                }
                None => false,
            });
        for (name, moving) in &*snapshot.moving {
            let known = before.moving.get(name);
            if moving.has_more_than(known) {
                self.let_all_through(name);
            }
        }
        self.gates.send_modify(|changes| *changes += 1);
        for listener in self.listeners.borrow().values() {
            listener.follow();
        }
        self.follow_nodes();
    }

    /// The same configuration and catalogs, and other gates.
    pub fn follow_gates(&self, snapshot: Arc<Snapshot>) {
        *self.snapshot.borrow_mut() = snapshot;
        // They would see keys on both sides, or on none, if these moved meanwhile.
        for card in self.cards.all() {
            if card.keeps_snapshot.get() && self.gate(&card.database) == Gate::Closed {
                card.let_through();
            }
        }
        self.gates.send_modify(|changes| *changes += 1);
    }

    /// What stands before the moving keys of a database now.
    pub fn gate(&self, database: &str) -> Gate {
        let snapshot = self.snapshot.borrow();
        let moving = snapshot.moving.get(database);
        moving.map_or(Gate::Open, Moving::gate)
    }

    /// Whether others know that this process is alive, where keys of a database move.
    pub fn is_known_alive(&self, database: &str) -> bool {
        let snapshot = self.snapshot.borrow();
        snapshot
            .moving
            .get(database)
            .is_some_and(Moving::is_known_alive)
    }

    /// Tells when a gate may have changed.
    pub fn gate_changes(&self) -> watch::Receiver<u64> {
        self.gates.subscribe()
    }

    /// How many sessions may be at work on moving keys of a database.
    pub fn inside(&self, database: &str) -> usize {
        let cards = self.cards.all();
        let inside = cards.iter().filter(|card| card.is_inside());
        inside.filter(|card| *card.database == *database).count()
    }

    /// How long requests to a database have taken.
    pub fn latency(&self, database: &str) -> Counts {
        let databases = self.databases.borrow();
        let found = databases.get(database);
        found.map_or_else(Counts::default, |one| one.counters.latency.counts())
    }

    /// Units of work that began before it was known which keys move may have used them.
    fn let_all_through(&self, database: &str) {
        for card in self.cards.all() {
            if *card.database == *database {
                card.let_through();
            }
        }
    }

    /// The same configuration and catalogs, and other primaries or replicas.
    pub fn follow_view(&self, snapshot: Arc<Snapshot>) {
        *self.snapshot.borrow_mut() = snapshot;
        self.follow_nodes();
        for listener in self.listeners.borrow().values() {
            listener.follow();
        }
        // Those whose connections must not be used any more look at them.
        for card in self.cards.all() {
            card.wake();
        }
    }

    fn follow_nodes(&self) {
        let snapshot = Arc::clone(&self.snapshot.borrow());
        for (key, pool) in self.pools() {
            let view = snapshot.view.shard(key.shard);
            match (self.spec(&key), view) {
                // It stays where it is until there is a primary: the one that is away may come back to what it was asked.
                (Some(_), Some(view)) if key.seat == Seat::Primary && view.primary.is_none() => {
                    self.let_lend(&key, &pool);
                }
                (Some(spec), Some(view)) if serves(view, key.seat) => {
                    let away = away(&snapshot.view, &pool.spec(), &spec);
                    pool.reconfigure(spec, away);
                    self.let_lend(&key, &pool);
                }
                _ => {
                    pool.set_lending(Lending::Closed);
                    if is_lost(&snapshot.view, &pool.spec()) {
                        pool.sever();
                    }
                    self.pools.borrow_mut().remove(&key);
                }
            }
        }
    }

    /// PAUSE and RESUME; `None` is every database.
    pub fn set_paused(&self, name: Option<&str>, paused: Paused) {
        let snapshot = Arc::clone(&self.snapshot.borrow());
        let concerned: Vec<&str> = snapshot
            .catalogs
            .keys()
            .map(|key| &**key)
            .filter(|key| name.is_none_or(|name| name == *key))
            .collect();
        for database in concerned.iter().filter_map(|name| self.database(name)) {
            database.paused.set(paused == Paused::Yes);
        }
        for (key, pool) in self.pools() {
            if concerned.contains(&&*key.database) {
                self.let_lend(&key, &pool);
            }
        }
    }

    /// Nothing of the database (or of all) is lent or being connected.
    pub fn is_quiet(&self, name: Option<&str>) -> bool {
        let pools = self.pools.borrow();
        pools
            .iter()
            .filter(|(key, _)| name.is_none_or(|name| name == &*key.database))
            .all(|(_, pool)| pool.is_at_rest())
    }

    /// The housekeeping of this thread, some times a second.
    pub fn tick(&self, now: Instant) {
        for (_, pool) in self.pools() {
            pool.tick(now);
        }
        if now.saturating_duration_since(self.tidied_at.get()) >= TIDY {
            self.tidied_at.set(now);
            self.forget_those_who_left();
        }
        self.statements.borrow_mut().sweep();
        self.cards.wake_overdue(now - OVERDUE);
        let config = self.config();
        if let Some(timeout) = config.transactions.deadlock_timeout
            && self.several.has_news(timeout, now)
        {
            self.shared.long_wait.notify_one();
        }
        for card in self.cards.overstaying(now, &config.limits) {
            let running = card.all_running();
            if running.is_empty() {
                continue;
            }
            if let Some(database) = self.database(&card.database) {
                add(&database.counters.query_timeouts, 1);
            }
            for canceller in running {
                canceller.cancel_meanwhile();
            }
        }
    }

    /// Users that are not configured come and go: what nobody uses any more is given back.
    fn forget_those_who_left(&self) {
        let snapshot = self.snapshot.borrow();
        let mut users = self.users.borrow_mut();
        let mut pools = self.pools.borrow_mut();
        pools.retain(|key, pool| {
            Rc::strong_count(pool) > 1
                || pool.is_in_use()
                || snapshot.user(&key.user).is_some()
                || users
                    .get(&key.user)
                    .is_some_and(|known| known.present.is_shared())
        });
        let with_pools: HashSet<&str> = pools.keys().map(|key| &*key.user).collect();
        users.retain(|name, known| known.present.is_shared() || with_pools.contains(&**name));
    }

    /// Stops the statement that the client of this card runs, if it runs one; returns when its server has been told.
    pub fn cancel(&self, place: usize) -> impl Future<Output = ()> + use<> {
        let card = self.cards.get(place);
        if let Some(card) = card.as_ref().filter(|card| card.held.get()) {
            card.called_off.set(true);
            self.gates.send_modify(|changes| *changes += 1);
        }
        let running = card.map(|card| card.all_running());
        let cancelling: Vec<_> = running
            .into_iter()
            .flatten()
            .map(|canceller| canceller.cancel())
            .collect();
        async move {
            for cancelling in cancelling {
                cancelling.await;
            }
        }
    }

    /// From now on clients are sent away as soon as they are idle.
    pub fn drain(&self) {
        self.draining.set(true);
        for card in self.cards.all() {
            card.wake();
        }
    }

    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }
}

/// Whether a node still serves as what a pool uses it for.
fn serves(view: &ShardView, seat: Seat) -> bool {
    let Seat::Replica(place) = seat else {
        return true;
    };
    let node = view.nodes.get(place);
    // Some sessions bear with those that are behind.
    let stage = node.map(|node| node.stage);
    matches!(stage, Some(Stage::Up | Stage::Lagging | Stage::Unknown))
}

/// What runs on a pool's node cannot be waited for, or must not go on. On one that was taken out of the configuration it may end.
fn is_lost(view: &View, spec: &Spec) -> bool {
    let place = view
        .config
        .shards
        .get(spec.shard.index())
        .and_then(|shard| {
            let address = &spec.target.address;
            let is_it =
                |node: &config::Node| node.host == address.host && node.port == address.port;
            shard.nodes.iter().position(is_it)
        });
    let node = place.and_then(|place| view.shard(spec.shard)?.nodes.get(place));
    node.is_some_and(|node| matches!(node.stage, Stage::Down | Stage::Refused | Stage::Fenced))
}

/// A pool moves: what becomes of what runs on its connections.
fn away(view: &View, before: &Spec, after: &Spec) -> Away {
    if before.target.address != after.target.address && is_lost(view, before) {
        Away::AtOnce
    } else {
        Away::Later
    }
}

/// Whether a database lends connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paused {
    Yes,
    No,
}

impl Database {
    pub fn catalog(&self) -> Ref<'_, Arc<Catalog>> {
        self.catalog.borrow()
    }

    pub fn is_paused(&self) -> bool {
        self.paused.get()
    }

    /// What servers report to this user with these settings, when it is known.
    pub fn greeting(&self, user: &str, settings: &Settings) -> Option<(Settings, Reported)> {
        let greetings = self.greetings.borrow();
        let greeting = greetings
            .iter()
            .find(|greeting| *greeting.user == *user && greeting.settings == *settings)?;
        Some((greeting.settings.clone(), greeting.reported.clone()))
    }

    pub fn remember_greeting(&self, user: &str, settings: &Settings, reported: &Reported) {
        let mut greetings = self.greetings.borrow_mut();
        if greetings.len() >= GREETINGS {
            greetings.remove(0);
        }
        greetings.push(Greeting {
            user: Box::from(user),
            settings: settings.clone(),
            reported: reported.clone(),
        });
    }

    /// The `search_path` that servers give this user, when it has been asked.
    pub fn server_search_path(&self, user: &str) -> Option<Box<str>> {
        self.search_paths.borrow().get(user).cloned()
    }

    pub fn remember_search_path(&self, user: &str, path: &str) {
        self.search_paths
            .borrow_mut()
            .insert(Box::from(user), Box::from(path));
    }

    /// Servers may have changed: what they report is asked again.
    fn forget_servers(&self) {
        self.greetings.borrow_mut().clear();
        self.search_paths.borrow_mut().clear();
    }
}
