//! One node and the connections over which it is watched.

use std::time::{Duration, SystemTime};

use bb8::ManageConnection;
use bb8_postgres::PostgresConnectionManager;
use tokio::sync::Mutex;
use tokio_postgres::Client;

use super::answer::{Failure, Lock, Look};
use super::connect::{self, Encryption, Login, NodeError};
use super::patroni::Patroni;
use super::pool::Connections;
use super::position::{self, Server};
use crate::config;
use crate::wire::tls::ServerEncryption;

/// What the servers show for these connections.
pub(super) const APPLICATION_NAME: &str = "trunkline";

const MOST_CONNECTIONS: u32 = 2;

/// A node with its pool.
pub(super) struct Node {
    pub place: config::Node,
    connections: Connections<Dialer>,
    /// How long one look may take.
    timeout: Duration,
    /// Held by the one look that is under way.
    looking: Mutex<()>,
    patroni: Option<Patroni>,
}

impl Node {
    /// Opens nothing yet. Needs the control plane's runtime, on which the pool's own tasks run.
    pub fn new(
        place: &config::Node,
        login: &Login,
        encryption: &ServerEncryption,
        config: &config::Config,
    ) -> Self {
        let settings = connect::settings(login, APPLICATION_NAME, place, encryption);
        let dialer = Dialer {
            postgres: PostgresConnectionManager::new(settings, Encryption(encryption.clone())),
            timeout: config.pool.connect_timeout,
        };
        let timeout = config.health.timeout;
        Node {
            place: place.clone(),
            // The longest wait is never reached: a look is given up before, with what is known of the reason.
            connections: Connections::new(dialer, MOST_CONNECTIONS, timeout, timeout * 2),
            timeout,
            looking: Mutex::new(()),
            patroni: place
                .patroni
                .as_ref()
                .map(|url| Patroni::new(url, config.failover.tls.as_ref(), timeout)),
        }
    }

    /// Asks the node how it is. Takes no longer than the health check's time limit, after whoever is asking already.
    pub async fn look(&self) -> Look {
        let _alone = self.looking.lock().await;
        if let Some(patroni) = &self.patroni {
            patroni.ask();
        }
        let answer = tokio::time::timeout(self.timeout, async {
            let mut link = self
                .connections
                .get()
                .await
                .map_err(|error| failure(&error))?;
            link.busy = Busy::Asked;
            let answer = position::look(&link.client, &link.server).await;
            link.busy = Busy::Idle;
            answer.map_err(|error| failure(&error))
        })
        .await
        .unwrap_or_else(|_| Err(Failure::Gone(self.too_slow())));
        let lock = match &self.patroni {
            Some(patroni) => patroni.word().await,
            None => Lock::Unasked,
        };
        Look {
            at: SystemTime::now(),
            answer,
            lock,
        }
    }

    /// For people.
    pub fn name(&self) -> Box<str> {
        format!("{}:{}", self.place.host, self.place.port).into()
    }

    /// The last attempt to connect may have failed after its look had given up on it; its reason says more than the wait.
    fn too_slow(&self) -> String {
        let slow = NodeError::Slow(self.timeout);
        match self.connections.last_failure() {
            Some(failure) => format!("{slow}; the last attempt to connect: {failure}"),
            None => slow.to_string(),
        }
    }
}

fn failure(error: &NodeError) -> Failure {
    match error.is_no_entry() {
        true => Failure::NoEntry(error.to_string()),
        false => Failure::Gone(error.to_string()),
    }
}

/// Opens connections for the pool.
struct Dialer {
    postgres: PostgresConnectionManager<Encryption>,
    timeout: Duration,
}

/// A connection of the pool.
struct Link {
    client: Client,
    server: Server,
    busy: Busy,
}

impl AsRef<Client> for Link {
    fn as_ref(&self) -> &Client {
        &self.client
    }
}

/// Whether an answer is due.
#[derive(Clone, Copy, PartialEq)]
enum Busy {
    Idle,
    /// Nobody waits for this answer when the connection comes back to the pool like this: it was too slow, and the connection may be dead.
    Asked,
}

impl ManageConnection for Dialer {
    type Connection = Link;
    type Error = NodeError;

    async fn connect(&self) -> Result<Link, NodeError> {
        let attempt = async {
            let client = self.postgres.connect().await?;
            let server = position::describe(&client).await?;
            Ok(Link {
                client,
                server,
                busy: Busy::Idle,
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
        link.busy == Busy::Asked || self.postgres.has_broken(&mut link.client)
    }
}
