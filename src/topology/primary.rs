//! Connections of the control plane to shards' primaries, in every database: for bookkeeping, never for clients' statements.

use std::ops::Deref;
use std::time::Duration;

use bb8::{ManageConnection, PooledConnection};
use bb8_postgres::PostgresConnectionManager;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::connect::{self, Encryption, Login, NodeError};
use super::node::APPLICATION_NAME;
use super::pool::Connections;
use super::watch::TopologyError;
use crate::config;
use crate::wire::tls::ServerEncryption;

const MOST_CONNECTIONS: u32 = 2;

/// What these connections do is short. None of it may hang on what roles and databases set for themselves.
const SETTINGS: &str = "SET search_path = pg_catalog, pg_temp; SET default_transaction_isolation = 'read committed';
    SET default_transaction_read_only = off; SET default_transaction_deferrable = off; SET statement_timeout = '15s';
    SET lock_timeout = '5s'; SET idle_in_transaction_session_timeout = '60s'; SET row_security = on; SET client_min_messages = error;
    SELECT pg_catalog.set_config('synchronous_commit', 'local', false) WHERE pg_catalog.current_setting('synchronous_commit') = 'off'";

const WHO: &str =
    "SELECT session_user, r.rolsuper, pg_catalog.current_setting('server_version_num')
    FROM pg_catalog.pg_roles r WHERE r.rolname = session_user";

/// Of one database on one shard. Opens nothing before somebody asks.
pub(super) struct Primaries {
    place: config::Node,
    connections: Connections<Dialer>,
}

impl Primaries {
    /// Needs the control plane's runtime, on which the pool's own tasks run.
    pub fn new(
        place: &config::Node,
        login: &Login,
        encryption: &ServerEncryption,
        connect_timeout: Duration,
    ) -> Self {
        let dialer = Dialer::new(place, login, encryption, connect_timeout);
        Primaries {
            place: place.clone(),
            connections: Connections::new(
                dialer,
                MOST_CONNECTIONS,
                connect_timeout,
                connect_timeout,
            ),
        }
    }

    pub async fn lend(&self) -> Result<Primary, TopologyError> {
        let lent = self.connections.get().await;
        let mut link = lent.map_err(|error| TopologyError::Node {
            host: self.place.host.clone(),
            port: self.place.port,
            error,
        })?;
        link.end = End::Close;
        Ok(Primary(link))
    }
}

/// A connection to a shard's primary. Nobody else uses it meanwhile. Only [`Primary::release`] gives it back to be used again; dropping it closes it.
pub struct Primary(PooledConnection<'static, Dialer>);

/// As whom a connection is logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub role: String,
    pub superuser: bool,
    /// As in `server_version_num`.
    pub server_version: i32,
}

impl Primary {
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// It is outside a transaction and as it came: the next one may have it.
    pub fn release(mut self) {
        self.0.end = End::Keep;
    }
}

impl Deref for Primary {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.0.client
    }
}

/// What becomes of a connection when it comes back to its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Keep,
    Close,
}

/// A connection of the pool.
pub(super) struct Link {
    client: Client,
    identity: Identity,
    end: End,
}

impl AsRef<Client> for Link {
    fn as_ref(&self) -> &Client {
        &self.client
    }
}

/// Opens connections for the pool.
pub(super) struct Dialer {
    postgres: PostgresConnectionManager<Encryption>,
    timeout: Duration,
}

impl Dialer {
    fn new(
        place: &config::Node,
        login: &Login,
        encryption: &ServerEncryption,
        timeout: Duration,
    ) -> Self {
        let settings = connect::settings(login, APPLICATION_NAME, place, encryption);
        Dialer {
            postgres: PostgresConnectionManager::new(settings, Encryption(encryption.clone())),
            timeout,
        }
    }
}

impl ManageConnection for Dialer {
    type Connection = Link;
    type Error = NodeError;

    async fn connect(&self) -> Result<Link, NodeError> {
        let attempt = async {
            let client = self.postgres.connect().await?;
            client.batch_execute(SETTINGS).await?;
            let identity = identity(&client).await?;
            Ok(Link {
                client,
                identity,
                end: End::Keep,
            })
        };
        tokio::time::timeout(self.timeout, attempt)
            .await
            .unwrap_or(Err(NodeError::Slow(self.timeout)))
    }

    async fn is_valid(&self, link: &mut Link) -> Result<(), NodeError> {
        Ok(self.postgres.is_valid(&mut link.client).await?)
    }

    fn has_broken(&self, link: &mut Link) -> bool {
        link.end == End::Close || self.postgres.has_broken(&mut link.client)
    }
}

async fn identity(client: &Client) -> Result<Identity, NodeError> {
    let messages = client.simple_query(WHO).await?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let text = |column| row.and_then(|row| row.try_get(column).ok().flatten());
    let strange = || NodeError::Strange("the server does not say who is logged in".to_owned());
    Ok(Identity {
        role: text(0).ok_or_else(strange)?.to_owned(),
        superuser: text(1) == Some("t"),
        server_version: text(2)
            .and_then(|number| number.parse().ok())
            .ok_or_else(strange)?,
    })
}
