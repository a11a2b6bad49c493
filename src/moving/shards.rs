//! Connections to the primaries of shards: SQL that may take as long as it takes, and replication.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::backend::connect::{Address, Login};
use crate::backend::replication::{ReplicationConnection, ReplicationError};
use crate::config::Config;
use crate::resharding::job::ShardName;
use crate::sharding::ShardId;
use crate::topology::{NodeError, Topology, TopologyError, WayIn, connect};
use crate::wire::auth::Credential;

/// What servers show for these connections.
pub const APPLICATION_NAME: &str = "trunkline reshard";

/// None of it may hang on what roles and databases set for themselves. Values are written so that they are read back exactly, by any server.
const SETTINGS: &str = "SET search_path = pg_catalog; SET default_transaction_isolation = 'read committed';
    SET default_transaction_read_only = off; SET default_transaction_deferrable = off; SET statement_timeout = 0; SET lock_timeout = 0;
    SET idle_in_transaction_session_timeout = 0; SET row_security = off; SET client_min_messages = error; SET datestyle = 'ISO, YMD';
    SET intervalstyle = 'postgres'; SET timezone = 'UTC'; SET extra_float_digits = 3; SET bytea_output = 'hex'; SET xmlbinary = 'base64';
    SET standard_conforming_strings = on; SET quote_all_identifiers = off; SET lc_monetary = 'C';
    SELECT pg_catalog.set_config('synchronous_commit', 'local', false) WHERE pg_catalog.current_setting('synchronous_commit') = 'off'";

/// The same for values that a stream writes.
const WRITTEN: [(&str, &str); 3] = [
    ("timezone", "UTC"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
];

/// Why a shard did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    #[error("the configuration has no shard {0}")]
    Unknown(ShardName),
    #[error(transparent)]
    Topology(#[from] TopologyError),
    #[error("{}", NodeError::described(.0))]
    Postgres(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Replication(#[from] ReplicationError),
    #[error("no connection within {0:?}")]
    Slow(Duration),
    /// The plan is ending or over, or somebody else drives it: what was asked for is not wanted any more.
    #[error("a late order was refused: {0}")]
    Stale(Box<str>),
    /// What it said cannot be what Postgres says.
    #[error("{0}")]
    Strange(&'static str),
}

impl ShardError {
    /// What the server said, if it did.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            ShardError::Postgres(error) => error.code().map(|code| code.code()),
            ShardError::Replication(error) => error.sqlstate(),
            _ => None,
        }
    }
}

/// The shards of one database.
#[derive(Clone)]
pub struct Shards {
    topology: Arc<Topology>,
    database: Box<str>,
}

/// An SQL connection of our own; dropping it closes it. Outside a transaction at first, with settings of its own and `search_path = pg_catalog`.
pub struct Connection {
    client: Client,
    driver: JoinHandle<()>,
}

impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl std::ops::DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // What runs on the server is given up with its socket.
        self.driver.abort();
    }
}

impl Shards {
    pub fn new(topology: Arc<Topology>, database: &str) -> Shards {
        Shards {
            topology,
            database: database.into(),
        }
    }

    pub fn database(&self) -> &str {
        &self.database
    }

    /// The configuration of now.
    pub fn config(&self) -> Arc<Config> {
        self.topology.config()
    }

    /// Names by number, as configured now.
    pub fn names(&self) -> Vec<Box<str>> {
        let config = self.topology.config();
        config
            .shards
            .iter()
            .map(|shard| shard.name.as_str().into())
            .collect()
    }

    /// Connects to the shard's primary of now.
    pub async fn open(&self, shard: &ShardName) -> Result<Connection, ShardError> {
        let way = self.way_in(shard)?;
        let dial = async {
            let (client, driver) =
                connect::connect(&way.login, APPLICATION_NAME, &way.node, &way.encryption).await?;
            // It ends with its client, and says why to whoever waits there.
            let driver = tokio::spawn(async move { drop(driver.await) });
            let connection = Connection { client, driver };
            connection.batch_execute(SETTINGS).await?;
            Ok(connection)
        };
        let limit = way.connect_timeout;
        tokio::time::timeout(limit, dial)
            .await
            .unwrap_or(Err(ShardError::Slow(limit)))
    }

    /// Connects for replication.
    pub async fn open_replication(
        &self,
        shard: &ShardName,
    ) -> Result<ReplicationConnection, ShardError> {
        let way = self.way_in(shard)?;
        let address = Address {
            host: way.node.host.clone(),
            port: way.node.port,
        };
        let login = Login {
            user: way.login.user.clone(),
            credential: way.login.password.clone().map(Credential::Password),
            database: way.login.database.clone(),
            application_name: Some(APPLICATION_NAME.to_owned()),
            parameters: WRITTEN
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        };
        let opened =
            ReplicationConnection::open(&address, &login, &way.encryption, way.connect_timeout);
        Ok(opened.await?)
    }

    /// Host and port of the shard's primary of now, if it has one.
    pub fn primary(&self, shard: &ShardName) -> Option<(String, u16)> {
        let way = self.way_in(shard).ok()?;
        Some((way.node.host.clone(), way.node.port))
    }

    fn way_in(&self, shard: &ShardName) -> Result<WayIn, ShardError> {
        let config = self.topology.config();
        let place = config.shards.iter().position(|one| one.name == *shard.0);
        let id = place
            .and_then(|place| u16::try_from(place).ok())
            .ok_or_else(|| ShardError::Unknown(shard.clone()))?;
        Ok(self.topology.way_in(&self.database, ShardId(id))?)
    }
}
