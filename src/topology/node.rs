//! One node and the connection over which it is watched.
//!
//! Whoever looks drives the connection himself: no other task is woken for a look, which is a write, a read and nothing besides. A new connection
//! is made by a task of its own, which goes on while looks give up waiting for it.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::answer::{Answer, Failure, Lock, Look};
use super::connect::{self, Driver, Login, NodeError};
use super::patroni::Patroni;
use super::position::{self, Server};
use crate::config;
use crate::wire::tls::ServerEncryption;

/// What the servers show for these connections.
pub(super) const APPLICATION_NAME: &str = "trunkline";

/// A node with its connection.
pub(super) struct Node {
    pub place: config::Node,
    dialer: Arc<Dialer>,
    /// How long one look may take.
    timeout: Duration,
    /// Held by the one look that is under way.
    line: Mutex<Line>,
    patroni: Option<Patroni>,
}

impl Node {
    /// Opens nothing yet.
    pub fn new(
        place: &config::Node,
        login: &Login,
        encryption: &ServerEncryption,
        config: &config::Config,
    ) -> Self {
        let timeout = config.health.timeout;
        Node {
            place: place.clone(),
            dialer: Arc::new(Dialer {
                place: place.clone(),
                login: login.clone(),
                encryption: encryption.clone(),
                timeout: config.pool.connect_timeout,
            }),
            timeout,
            line: Mutex::new(Line::default()),
            patroni: place
                .patroni
                .as_ref()
                .map(|url| Patroni::new(url, config.failover.tls.as_ref(), timeout)),
        }
    }

    /// Asks the node how it is. Takes no longer than the health check's time limit, after whoever is asking already. Needs the control plane's runtime,
    /// on which connections are made.
    pub async fn look(&self) -> Look {
        let mut line = self.line.lock().await;
        if let Some(patroni) = &self.patroni {
            patroni.ask();
        }
        let answer = match tokio::time::timeout(self.timeout, line.ask(&self.dialer)).await {
            Ok(answer) => answer.map_err(|error| failure(&error)),
            Err(_) => Err(Failure::Gone(line.too_slow(self.timeout))),
        };
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
}

fn failure(error: &NodeError) -> Failure {
    match error.is_no_entry() {
        true => Failure::NoEntry(error.to_string()),
        false => Failure::Gone(error.to_string()),
    }
}

/// The way to a node.
#[derive(Default)]
struct Line {
    state: State,
    /// Why the last attempt to connect has failed; `None` after one that did not.
    failure: Option<String>,
}

#[derive(Default)]
enum State {
    /// => Dialing. Also while a look has the link: one that is given up closes it, because its answer is still due.
    #[default]
    Closed,
    /// => (Open or Closed)
    Dialing(JoinHandle<Result<Box<Link>, NodeError>>),
    /// => Closed
    Open(Box<Link>),
}

impl Line {
    async fn ask(&mut self, dialer: &Arc<Dialer>) -> Result<Answer, NodeError> {
        let mut link = match std::mem::take(&mut self.state) {
            State::Open(mut link) => match link.drive.has_ended().await {
                false => link,
                true => self.dial(dialer).await?,
            },
            other => {
                self.state = other;
                self.dial(dialer).await?
            }
        };
        let answer = link.look().await;
        let is_kept = match &answer {
            Ok(_) => true,
            // An error of the server's ends no connection.
            Err(NodeError::Postgres(error)) => error.as_db_error().is_some(),
            Err(NodeError::Slow(_) | NodeError::Strange(_)) => false,
        };
        if is_kept {
            self.state = State::Open(link);
        }
        answer
    }

    /// A new connection, by the attempt that is under way or by another one.
    async fn dial(&mut self, dialer: &Arc<Dialer>) -> Result<Box<Link>, NodeError> {
        if let State::Dialing(attempt) = &self.state
            && attempt.is_finished()
            && let Ok(link) = self.dialed().await
        {
            return Ok(link);
        }
        if let State::Closed = self.state {
            let dialer = Arc::clone(dialer);
            let attempt = tokio::spawn(async move { dialer.connect().await });
            self.state = State::Dialing(attempt);
        }
        self.dialed().await
    }

    /// Waits for the attempt that is under way.
    async fn dialed(&mut self) -> Result<Box<Link>, NodeError> {
        let State::Dialing(attempt) = &mut self.state else {
            return Err(NodeError::Strange("nobody connects".to_owned()));
        };
        let dialed = attempt.await;
        self.state = State::Closed;
        let dialed = dialed.unwrap_or_else(|error| Err(NodeError::Strange(error.to_string())));
        self.failure = dialed.as_ref().err().map(ToString::to_string);
        dialed
    }

    /// The last attempt to connect may have failed after its look had given up on it; its reason says more than the wait.
    fn too_slow(&self, timeout: Duration) -> String {
        let slow = NodeError::Slow(timeout);
        match &self.failure {
            Some(failure) => format!("{slow}; the last attempt to connect: {failure}"),
            None => slow.to_string(),
        }
    }
}

/// Opens connections.
struct Dialer {
    place: config::Node,
    login: Login,
    encryption: ServerEncryption,
    timeout: Duration,
}

impl Dialer {
    async fn connect(&self) -> Result<Box<Link>, NodeError> {
        let attempt = async {
            let Dialer {
                place,
                login,
                encryption,
                ..
            } = self;
            let connected = connect::connect(login, APPLICATION_NAME, place, encryption);
            let (client, connection) = connected.await?;
            let mut drive = Drive {
                connection,
                stage: Stage::Running,
            };
            let server = drive.until(position::describe(&client)).await?;
            Ok(Box::new(Link {
                server,
                client,
                drive,
            }))
        };
        tokio::time::timeout(self.timeout, attempt)
            .await
            .unwrap_or(Err(NodeError::Slow(self.timeout)))
    }
}

/// A connection.
struct Link {
    server: Server,
    client: Client,
    drive: Drive,
}

impl Link {
    async fn look(&mut self) -> Result<Answer, NodeError> {
        let asking = position::look(&self.client, &self.server);
        self.drive.until(asking).await
    }
}

/// What makes a connection work.
struct Drive {
    connection: Driver,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// => Ended
    Running,
    Ended,
}

impl Drive {
    /// Does what there is to do at the moment.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), tokio_postgres::Error>> {
        if self.stage == Stage::Ended {
            return Poll::Ready(Ok(()));
        }
        let turn = self.connection.as_mut().poll(cx);
        if turn.is_ready() {
            self.stage = Stage::Ended;
        }
        turn
    }

    /// Whether the server has ended the connection while nobody looked.
    async fn has_ended(&mut self) -> bool {
        std::future::poll_fn(|cx| Poll::Ready(self.turn(cx).is_ready())).await
    }

    /// Works until the answer is there, or the connection ends.
    async fn until<T>(
        &mut self,
        asking: impl Future<Output = Result<T, NodeError>>,
    ) -> Result<T, NodeError> {
        let mut asking = std::pin::pin!(asking);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(answer) = asking.as_mut().poll(cx) {
                return Poll::Ready(answer);
            }
            let turn = self.turn(cx);
            // What has just come is the answer, or the reason why there will be none.
            if let Poll::Ready(answer) = asking.as_mut().poll(cx) {
                return Poll::Ready(answer);
            }
            turn.map(|ended| match ended {
                Ok(()) => Err(NodeError::Strange("the connection was closed".to_owned())),
                Err(error) => Err(NodeError::Postgres(error)),
            })
        })
        .await
    }
}
