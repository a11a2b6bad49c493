//! One node and the control plane's connections to it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bb8::{ErrorSink, ManageConnection, Pool, PooledConnection, QueueStrategy, RunError};
use bb8_postgres::PostgresConnectionManager;
use tokio::sync::watch;
use tokio_postgres::Client;

use super::connect::{self, Encryption, Login, NodeError};
use super::health::Look;
use super::position::{self, Server};
use crate::config;
use crate::wire::tls::ServerEncryption;

/// What the servers show for these connections.
pub(super) const APPLICATION_NAME: &str = "trunkline";

const MOST_CONNECTIONS: u32 = 2;

/// A node with its pool.
pub(super) struct Node {
    pub place: config::Node,
    pool: Pool<Dialer>,
    failure: LastFailure,
    /// How long one look may take.
    timeout: Duration,
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
        let failure = LastFailure(watch::Sender::new(None));
        let pool = Pool::builder()
            .max_size(MOST_CONNECTIONS)
            .queue_strategy(QueueStrategy::Lifo)
            // Never reached: a look is given up before, with what is known of the reason.
            .connection_timeout(config.health.timeout * 2)
            // The next look is the next attempt, and whether a connection lives is seen without asking over it.
            .retry_connection(false)
            .test_on_check_out(false)
            .error_sink(Box::new(failure.clone()))
            .build_unchecked(Dialer {
                postgres: PostgresConnectionManager::new(settings, Encryption(encryption.clone())),
                timeout: config.pool.connect_timeout,
            });
        Node {
            place: place.clone(),
            pool,
            failure,
            timeout: config.health.timeout,
        }
    }

    /// Asks the node how it is. Takes no longer than the health check's time limit.
    pub async fn look(&self) -> Look {
        let answer = tokio::time::timeout(self.timeout, async {
            let mut link = self.link().await.map_err(|error| error.to_string())?;
            link.busy = Busy::Asked;
            let answer = position::look(&link.client, &link.server).await;
            link.busy = Busy::Idle;
            answer.map_err(|error| error.to_string())
        })
        .await
        .unwrap_or_else(|_| Err(self.too_slow()));
        Look {
            at: SystemTime::now(),
            answer,
        }
    }

    /// A connection from the pool. Where it cannot be opened the reason comes at once: the pool itself would keep silent until its time is over.
    async fn link(&self) -> Result<PooledConnection<'_, Dialer>, Arc<NodeError>> {
        let mut failures = self.failure.0.subscribe();
        loop {
            let got = tokio::select! {
                biased;
                got = self.pool.get() => got,
                Ok(()) = failures.changed() => match failures.borrow_and_update().clone() {
                    Some(error) => return Err(error),
                    None => continue,
                },
            };
            match got {
                // It goes back to the pool, which sees that it is broken and forgets it.
                Ok(link) if link.client.is_closed() => {}
                Ok(link) => {
                    self.failure.0.send_replace(None);
                    return Ok(link);
                }
                Err(RunError::TimedOut) => return Err(Arc::new(NodeError::Slow(self.timeout))),
                Err(RunError::User(error)) => return Err(Arc::new(error)),
            }
        }
    }

    /// The last attempt to connect may have failed after its look had given up on it; its reason says more than the wait.
    fn too_slow(&self) -> String {
        let slow = NodeError::Slow(self.timeout);
        match &*self.failure.0.borrow() {
            Some(failure) => format!("{slow}; the last attempt to connect: {failure}"),
            None => slow.to_string(),
        }
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

/// Why the last attempt to connect failed; `None` after one that did not. Attempts are made on the pool's own tasks, so nobody else hears of it.
#[derive(Clone, Debug)]
struct LastFailure(watch::Sender<Option<Arc<NodeError>>>);

impl ErrorSink<NodeError> for LastFailure {
    fn sink(&self, error: NodeError) {
        self.0.send_replace(Some(Arc::new(error)));
    }

    fn boxed_clone(&self) -> Box<dyn ErrorSink<NodeError>> {
        Box::new(self.clone())
    }
}
