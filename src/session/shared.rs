//! What all threads share: the snapshot of configuration and catalogs, the keys for cancelling, the number of clients.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc, oneshot};

use super::gate::Gate;
use super::statement::Definitions;
use crate::catalog::Catalog;
use crate::config::{Config, User};
use crate::execution::commit::Unresolved;
use crate::execution::commit::id::Proxy;
use crate::execution::commit::readiness::Readiness;
use crate::plan::Placed;
use crate::store::Lease;
use crate::topology::view::{Sighting, View};
use crate::topology::{Roles, Topology};
use crate::wire::auth::{AuthSecrets, ProcessSecret, Stored};
use crate::wire::handshakes::Handshakes;
use crate::wire::timers::Timers;
use crate::wire::tls::{ClientEncryption, ServerEncryption};

/// One consistent state of what the administrator configured and what the servers define.
pub struct Snapshot {
    pub config: Arc<Config>,
    /// By the database's name.
    pub catalogs: HashMap<Box<str>, Arc<Catalog>>,
    pub client_encryption: ClientEncryption,
    pub server_encryption: Arc<ServerEncryption>,
    pub auth: Arc<AuthSecrets>,
    /// Where users are looked up that are not configured.
    pub roles: Option<Arc<Roles>>,
    /// Which shards can take part in commits of several, by the database's name and the shard's place. What is missing has not been asked.
    pub readiness: Arc<HashMap<Box<str>, Vec<Readiness>>>,
    /// The nodes of this configuration.
    pub view: Arc<View>,
    /// What moves between shards, by the database's name.
    pub moving: Arc<HashMap<Box<str>, Moving>>,
}

/// What moves between the shards of a database.
#[derive(Clone, Debug, Default)]
pub struct Moving {
    /// The numbers of the plans.
    pub plans: BTreeSet<u64>,
    pub gate: Gate,
    /// This proxy is alive, as far as others know; while it is not, its gates are closed. `None`: it never was.
    pub tenure: Option<Arc<Lease>>,
}

impl Moving {
    /// Whether there is a plan that was not known before.
    pub fn has_more_than(&self, before: Option<&Moving>) -> bool {
        match before {
            Some(before) => !self.plans.is_subset(&before.plans),
            None => !self.plans.is_empty(),
        }
    }

    pub fn is_known_alive(&self) -> bool {
        self.tenure.as_ref().is_some_and(|tenure| tenure.is_held())
    }

    pub fn gate(&self) -> Gate {
        match self.is_known_alive() {
            true => self.gate,
            false => Gate::Closed,
        }
    }
}

impl Snapshot {
    /// The same with other primaries or replicas.
    pub fn with_view(&self, view: Arc<View>) -> Snapshot {
        Snapshot {
            config: Arc::clone(&self.config),
            catalogs: self.catalogs.clone(),
            client_encryption: self.client_encryption.clone(),
            server_encryption: Arc::clone(&self.server_encryption),
            auth: Arc::clone(&self.auth),
            roles: self.roles.clone(),
            readiness: Arc::clone(&self.readiness),
            view,
            moving: Arc::clone(&self.moving),
        }
    }

    /// The same with other gates.
    pub fn with_moving(&self, moving: Arc<HashMap<Box<str>, Moving>>) -> Snapshot {
        Snapshot {
            moving,
            ..self.with_view(Arc::clone(&self.view))
        }
    }

    /// A configured user, and what is stored of its password.
    pub fn user(&self, name: &str) -> Option<(&User, &Stored)> {
        let (place, stored) = self.auth.find(name)?;
        Some((self.config.users.get(place)?, stored))
    }
}

/// Shared by the workers and the control plane.
pub struct Shared {
    snapshot: ArcSwap<Snapshot>,
    /// Workers have none of their own.
    pub timers: Timers,
    pub handshakes: Handshakes,
    pub secret: ProcessSecret,
    keys: Mutex<HashMap<i32, Key>>,
    clients: AtomicUsize,
    users: Mutex<HashMap<Box<str>, usize>>,
    control: ToControl,
    definitions: AtomicU64,
    topology: Arc<Topology>,
    /// Told when a request over several shards has begun to take long.
    pub long_wait: Notify,
    /// This process, in the ids of its transactions.
    pub proxy: Proxy,
    sequence_resets: AtomicU64,
    pub last_unique_id: AtomicU64,
}

/// What sessions have the control plane do.
pub struct ToControl {
    /// Databases whose definitions a client has changed.
    pub changed: mpsc::UnboundedSender<SchemaChange>,
    pub placing: mpsc::UnboundedSender<Placing>,
    /// Commits whose end sessions could not see.
    pub unresolved: mpsc::UnboundedSender<Unresolved>,
}

/// A client has changed definitions.
pub struct SchemaChange {
    pub database: Box<str>,
    /// Told when the new definitions are in force on every worker.
    pub followed: oneshot::Sender<()>,
}

/// A client creates a table and says where its rows belong.
pub struct Placing {
    pub database: Box<str>,
    /// Whom the client acts as.
    pub role: Box<str>,
    pub placed: Placed,
    /// Told when every proxy plans by it; the error says why it was not recorded, for people.
    pub done: oneshot::Sender<Result<(), String>>,
}

/// Who may be cancelled with which secret.
struct Key {
    secret: Vec<u8>,
    place: ClientPlace,
}

/// Where a client's session lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientPlace {
    pub worker: usize,
    pub card: usize,
}

impl Shared {
    pub fn new(
        snapshot: Snapshot,
        timers: Timers,
        handshakes: Handshakes,
        secret: ProcessSecret,
        control: ToControl,
        topology: Arc<Topology>,
    ) -> Shared {
        Shared {
            snapshot: ArcSwap::from_pointee(snapshot),
            timers,
            handshakes,
            secret,
            keys: Mutex::default(),
            clients: AtomicUsize::new(0),
            users: Mutex::default(),
            control,
            definitions: AtomicU64::new(0),
            topology,
            long_wait: Notify::new(),
            proxy: Proxy(rand::random()),
            sequence_resets: AtomicU64::new(0),
            last_unique_id: AtomicU64::new(0),
        }
    }

    /// How often definitions have changed, as far as anybody here has seen it.
    pub fn definitions(&self) -> Definitions {
        Definitions(self.definitions.load(Ordering::Relaxed))
    }

    /// Statements that are prepared from now on are not the same as those before.
    pub fn definitions_changed(&self) {
        self.definitions.fetch_add(1, Ordering::Relaxed);
    }

    /// How often clients have set sequences to other numbers.
    pub fn sequence_resets(&self) -> u64 {
        self.sequence_resets.load(Ordering::Relaxed)
    }

    /// Numbers that were taken before are not to be used any more.
    pub fn sequences_were_reset(&self) {
        self.sequence_resets.fetch_add(1, Ordering::Relaxed);
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    pub fn replace(&self, snapshot: Arc<Snapshot>) {
        self.snapshot.store(snapshot);
    }

    /// A client changed the definitions of this database; the receiver is told when the new ones are in force.
    pub fn schema_changed(&self, database: &str) -> oneshot::Receiver<()> {
        self.definitions_changed();
        let (followed, follows) = oneshot::channel();
        // Nobody receives it only while the process ends.
        let _ = self.control.changed.send(SchemaChange {
            database: Box::from(database),
            followed,
        });
        follows
    }

    /// Has a table's place recorded, and every proxy follow.
    pub fn place(
        &self,
        database: &str,
        role: &str,
        placed: Placed,
    ) -> oneshot::Receiver<Result<(), String>> {
        let (done, told) = oneshot::channel();
        // Nobody receives it only while the process ends.
        let _ = self.control.placing.send(Placing {
            database: Box::from(database),
            role: Box::from(role),
            placed,
            done,
        });
        told
    }

    /// Has the control plane find out what became of a commit, and finish it.
    pub fn resolve(&self, unresolved: Unresolved) {
        // Nobody receives it only while the process ends; then another proxy, or the next start, finds it on the servers.
        let _ = self.control.unresolved.send(unresolved);
    }

    /// A connection has seen something of a node.
    pub fn sighted(&self, sighting: Sighting) {
        self.topology.sighted(&sighting);
    }

    /// Gives a session its process id and secret; the id is the wanted one unless another session has it.
    pub fn enroll(&self, place: ClientPlace, secret: &[u8], mut wanted: Option<i32>) -> i32 {
        let mut keys = lock(&self.keys);
        loop {
            let process_id = wanted
                .take()
                .unwrap_or_else(|| rand::random_range(1..i32::MAX));
            if let std::collections::hash_map::Entry::Vacant(vacant) = keys.entry(process_id) {
                vacant.insert(Key {
                    secret: secret.to_vec(),
                    place,
                });
                return process_id;
            }
        }
    }

    pub fn dismiss(&self, process_id: i32) {
        lock(&self.keys).remove(&process_id);
    }

    /// The session that this key belongs to.
    pub fn find(&self, process_id: i32, secret: &[u8]) -> Option<ClientPlace> {
        use subtle::ConstantTimeEq;
        let keys = lock(&self.keys);
        let key = keys.get(&process_id)?;
        bool::from(key.secret.as_slice().ct_eq(secret)).then_some(key.place)
    }

    /// Clients that are connected, in all.
    pub fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    /// Counts a client in, unless there are too many.
    pub fn admit(self: &Arc<Shared>, limit: usize) -> Option<Admission> {
        let admitted = self
            .clients
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                (count < limit).then_some(count + 1)
            });
        admitted.ok().map(|_| Admission {
            shared: Arc::clone(self),
        })
    }

    /// Counts a client of this user in, unless there are too many.
    pub fn admit_user(
        self: &Arc<Shared>,
        user: &str,
        limit: Option<usize>,
    ) -> Option<UserAdmission> {
        let mut users = lock(&self.users);
        let count = users.entry(Box::from(user)).or_default();
        if limit.is_some_and(|limit| *count >= limit) {
            return None;
        }
        *count += 1;
        Some(UserAdmission {
            shared: Arc::clone(self),
            user: Box::from(user),
        })
    }
}

/// A panic while a lock was held leaves these maps whole: each change is one insertion or removal.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts a client out when it is dropped.
pub struct Admission {
    shared: Arc<Shared>,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.shared.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a user's client out when it is dropped.
pub struct UserAdmission {
    shared: Arc<Shared>,
    user: Box<str>,
}

impl Drop for UserAdmission {
    fn drop(&mut self) {
        let mut users = lock(&self.shared.users);
        if let Some(count) = users.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                users.remove(&self.user);
            }
        }
    }
}
