//! Users that are not configured: what is stored of their passwords is asked of a server, as PgBouncer's `auth_query` does.
//!
//! One connection asks for everybody. A name is asked for once at a time, however many clients wait for the answer, and the answer
//! is remembered for a while (`memory.rs`). The names that a statement of the configuration uses are looked up in `pg_catalog` only: nobody
//! who can make functions can put one in its way (CVE-2025-12819 in PgBouncer).

mod memory;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use self::memory::{Answer, Ask, Memory};
use super::connect::{self, Login, NodeError};
use super::node::APPLICATION_NAME;
use super::view::{NodePlace, Stage, View};
use crate::config::{AuthQuery, Config, Node, Password};
use crate::sharding::ShardId;
use crate::wire::auth::{Likeness, ProcessSecret, Stored};
use crate::wire::tls::ServerEncryption;

/// Most questions on their way to the server; others wait.
const AT_ONCE: usize = 32;

/// Most names that are asked for or wait for that.
const MOST_ASKED: usize = 1000;

/// How long a server that could not be asked is left alone.
const LEFT_ALONE: Duration = Duration::from_secs(1);

/// Longest name of a role, in bytes.
const LONGEST_NAME: usize = 63;

/// Why nothing was learned of a user.
#[derive(Clone, Debug, Error)]
pub enum RoleError {
    #[error("no answer within {0:?}")]
    Slow(Duration),
    #[error("{0}")]
    Server(Arc<str>),
    /// The configured query gave something else than one name and one password.
    #[error("the query of [auth.query] {0}")]
    Strange(&'static str),
    #[error("too many users are being looked up")]
    TooMany,
    /// The control plane is gone: the process is ending.
    #[error("the proxy is shutting down")]
    Ending,
}

impl From<NodeError> for RoleError {
    fn from(error: NodeError) -> Self {
        RoleError::Server(error.to_string().into())
    }
}

impl From<tokio_postgres::Error> for RoleError {
    fn from(error: tokio_postgres::Error) -> Self {
        NodeError::from(error).into()
    }
}

/// See the module's text. Asked from any thread; works on the control plane's.
pub struct Roles {
    control: Handle,
    secret: ProcessSecret,
    query: AuthQuery,
    shard: ShardId,
    nodes: Vec<Node>,
    views: OnceLock<watch::Receiver<Arc<View>>>,
    database: String,
    encryption: Arc<ServerEncryption>,
    connect_timeout: Duration,
    memory: Mutex<Memory>,
    link: tokio::sync::Mutex<Option<Link>>,
    permits: Semaphore,
    asked: AtomicU64,
    failed: AtomicU64,
}

/// What the looking up has come to, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Census {
    /// Questions since the configuration was read.
    pub asked: u64,
    /// Those without an answer.
    pub failed: u64,
    /// Users remembered.
    pub known: usize,
}

/// The connection that asks.
#[derive(Clone)]
struct Link(Arc<Driven>);

struct Driven {
    client: Client,
    node: NodePlace,
    driver: AbortHandle,
}

impl Drop for Driven {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Roles {
    /// Opens nothing yet. Asks `shard`, the home of the first database. Must be called on the control plane's runtime.
    pub fn new(
        config: &Config,
        query: &AuthQuery,
        shard: ShardId,
        encryption: Arc<ServerEncryption>,
        secret: ProcessSecret,
    ) -> Roles {
        let named = config
            .databases
            .first()
            .map(|first| first.server_database.clone());
        Roles {
            control: Handle::current(),
            secret,
            query: query.clone(),
            shard,
            nodes: config
                .shards
                .get(shard.index())
                .map(|shard| shard.nodes.clone())
                .unwrap_or_default(),
            views: OnceLock::new(),
            database: query.database.clone().or(named).unwrap_or_default(),
            encryption,
            connect_timeout: config.pool.connect_timeout,
            memory: Mutex::new(Memory::new(query)),
            link: tokio::sync::Mutex::new(None),
            permits: Semaphore::new(AT_ONCE),
            asked: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// From now on the primary is asked first, then the replicas that serve, and a node that is fenced or refused never.
    /// Until then, and while nothing is known, they are tried in the order of the configuration.
    pub fn follow(&self, views: watch::Receiver<Arc<View>>) {
        // Once is enough: the views go on.
        let _ = self.views.set(views);
    }

    /// How good a node is for this, least first; `None`: not at all.
    fn rank(&self, place: NodePlace) -> Option<u8> {
        let Some(views) = self.views.get() else {
            return Some(0);
        };
        let view = Arc::clone(&views.borrow());
        let is_ours = |shard: &crate::config::Shard| shard.nodes == self.nodes;
        let configured = view.config.shards.get(self.shard.index());
        let Some(shard) = view
            .shard(self.shard)
            .filter(|_| configured.is_some_and(is_ours))
        else {
            return Some(0);
        };
        if shard.primary == Some(place) {
            return Some(0);
        }
        match shard.nodes.get(place.0)?.stage {
            Stage::Up => Some(1),
            Stage::Lagging | Stage::Drained | Stage::Ejected => Some(2),
            Stage::Unknown | Stage::Down => Some(3),
            Stage::Fenced | Stage::Refused => None,
        }
    }

    /// What is stored of this user's password; `None`: there is no such user. From the memory, or from the server.
    pub async fn find(self: &Arc<Self>, name: &str) -> Answer {
        if name.len() > LONGEST_NAME {
            return Ok(None);
        }
        let asked = self.memory().ask(name, Instant::now());
        let answer = match asked {
            Ask::Known(answer) => return answer,
            Ask::Wait(answer) => answer,
            Ask::Fetch(answer) => {
                let flight = Flight {
                    roles: Arc::clone(self),
                    name: Box::from(name),
                    answer: None,
                };
                self.control.spawn(flight.run());
                answer
            }
        };
        answer.await.unwrap_or(Err(RoleError::Ending))
    }

    /// A client could not prove to be this user: what is known of it may be old.
    pub fn doubt(&self, name: &str) {
        self.memory().doubt(name);
    }

    /// How the user that was found last is asked for its password.
    pub fn likeness(&self) -> Option<Likeness> {
        self.memory().likeness()
    }

    pub fn census(&self) -> Census {
        Census {
            asked: self.asked.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            known: self.memory().known(),
        }
    }

    /// A panic while the lock was held leaves the memory whole: each change is one insertion or removal.
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, name: &str) -> Answer {
        // It is never closed.
        let _permit = self
            .permits
            .acquire()
            .await
            .map_err(|_| RoleError::Ending)?;
        let link = self.link().await?;
        let rows = match self.rows(&link, name).await {
            // It may have died while nobody looked.
            Err(_) if link.0.client.is_closed() => {
                let link = self.link().await?;
                self.rows(&link, name).await?
            }
            rows => rows?,
        };
        let password = match &rows[..] {
            [] => return Ok(None),
            [row] if row.len() == 2 => {
                let text = |at| {
                    row.try_get::<_, Option<String>>(at)
                        .map_err(|_| RoleError::Strange("gives something else than texts"))
                };
                if text(0)?.as_deref() != Some(name) {
                    return Err(RoleError::Strange("gives another user than was asked for"));
                }
                text(1)?.unwrap_or_default()
            }
            [_] => return Err(RoleError::Strange("gives more or less than two columns")),
            _ => return Err(RoleError::Strange("gives several rows for one user")),
        };
        self.stored(name, &password).await.map(Some)
    }

    async fn rows(
        &self,
        link: &Link,
        name: &str,
    ) -> Result<Vec<tokio_postgres::Row>, tokio_postgres::Error> {
        let asked = &[(
            &name as &(dyn tokio_postgres::types::ToSql + Sync),
            Type::TEXT,
        )];
        link.0.client.query_typed(&self.query.sql, asked).await
    }

    async fn stored(&self, name: &str, password: &str) -> Result<Arc<Stored>, RoleError> {
        let (secret, name, password) =
            (self.secret.clone(), name.to_owned(), Password::of(password));
        // A plain password takes thousands of hashes.
        let stored = tokio::task::spawn_blocking(move || Stored::new(&secret, &name, &password))
            .await
            .map_err(|_| RoleError::Ending)?;
        Ok(Arc::new(stored.unwrap_or_else(|error| {
            tracing::warn!(%error, "a stored password cannot be used");
            Stored::Nothing
        })))
    }

    /// The connection that is open, or a new one.
    async fn link(&self) -> Result<Link, RoleError> {
        let mut link = self.link.lock().await;
        let serves = |link: &&Link| !link.0.client.is_closed() && self.rank(link.0.node).is_some();
        if let Some(link) = link.as_ref().filter(serves) {
            return Ok(link.clone());
        }
        let mut failure = RoleError::Strange("has no node to run on");
        // One that does not answer leaves time for the others.
        let share = self.query.timeout / u32::try_from(self.nodes.len()).unwrap_or(u32::MAX).max(1);
        let limit = self.connect_timeout.min(share);
        let mut ranked: Vec<_> = (0..self.nodes.len())
            .filter_map(|place| Some((self.rank(NodePlace(place))?, place)))
            .collect();
        ranked.sort();
        for (_, place) in ranked {
            let node = &self.nodes[place];
            let attempt = tokio::time::timeout(limit, self.connect(NodePlace(place))).await;
            match attempt.unwrap_or(Err(RoleError::Slow(limit))) {
                Ok(new) => return Ok(link.insert(new).clone()),
                Err(error) => {
                    tracing::warn!(host = node.host, port = node.port, %error, "users cannot be looked up there");
                    failure = error;
                }
            }
        }
        Err(failure)
    }

    async fn connect(&self, place: NodePlace) -> Result<Link, RoleError> {
        let node = &self.nodes[place.0];
        let login = Login {
            database: match &self.query.database {
                Some(database) => database.clone(),
                None => node
                    .database
                    .clone()
                    .unwrap_or_else(|| self.database.clone()),
            },
            user: self.query.user.clone(),
            password: self.query.password.clone(),
        };
        let (client, connection) =
            connect::connect(&login, APPLICATION_NAME, node, &self.encryption).await?;
        let driver = tokio::spawn(connection).abort_handle();
        let link = Link(Arc::new(Driven {
            client,
            node: place,
            driver,
        }));
        let settings = format!(
            "SET search_path = pg_catalog, pg_temp; SET statement_timeout = {}",
            self.query.timeout.as_millis()
        );
        link.0.client.batch_execute(&settings).await?;
        Ok(link)
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roles")
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

/// One question; its end is told to all who wait even when it is cut off.
struct Flight {
    roles: Arc<Roles>,
    name: Box<str>,
    answer: Option<Answer>,
}

impl Flight {
    async fn run(mut self) {
        let limit = self.roles.query.timeout;
        let asking = tokio::time::timeout(limit, self.roles.ask(&self.name)).await;
        if asking.is_err() {
            // Whoever asks next does not queue behind what hangs.
            *self.roles.link.lock().await = None;
        }
        self.answer = Some(asking.unwrap_or(Err(RoleError::Slow(limit))));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let answer = self.answer.take().unwrap_or(Err(RoleError::Ending));
        self.roles.asked.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = &answer {
            self.roles.failed.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(user = &*self.name, %error, "a user cannot be looked up");
        }
        self.roles.memory().land(&self.name, answer, Instant::now());
    }
}
