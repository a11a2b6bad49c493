//! The running proxy: accepting, limiting, handing clients to workers; the control plane that follows configuration and
//! definitions; draining.
//!
//! This room never looks at a statement. Read [`start`] for how it comes up, `worker.rs` for one thread of the data plane,
//! `accept.rs` for new connections, `login.rs` for who they are, `control.rs` for reloads and what the servers define,
//! `readiness.rs` for which of them can commit together, `failover/` for who makes a primary.

mod accept;
mod control;
mod control_store;
mod deadlocks;
mod elsewhere;
mod failover;
mod handshakes;
mod login;
mod readiness;
mod reshards;
mod worker;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::admin::period::{self, LastPeriod};
use crate::admin::{self, Access, Phase, Request};
use crate::catalog::Epoch;
use crate::catalog::Hearing;
use crate::config::{Config, Problem};
use crate::execution::commit::recovery::Recovery;
use crate::session::report::WorkerReport;
use crate::session::shared::{Shared, ToControl};
use crate::topology::Topology;
use crate::topology::view::View;
use crate::wire::auth::{BadVerifier, ProcessSecret};
use crate::wire::timers::Timers;
use crate::wire::tls::TlsError;

use accept::Listeners;
use control::{Control, Definitions, Fleet, MovingKeys, Plant};
use control_store::ControlStore;
use deadlocks::Deadlocks;
use elsewhere::Elsewhere;
use failover::Failover;
use readiness::Survey;
use reshards::Reshards;
use worker::{Command, Surroundings, WorkerHandle};

/// How often draining looks whether clients have left.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// Why the proxy does not come up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the configuration has mistakes:\n{}", lines(.0))]
    Config(Vec<Problem>),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Verifier(#[from] BadVerifier),
    #[error("cannot listen on {address}: {error}")]
    Listen { address: String, error: io::Error },
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

fn lines(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(|problem| format!("  {problem}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// A proxy that runs. Dropping it ends it without waiting for anybody.
pub struct Handle {
    /// Where it listens, in the order of the configuration; with port 0 configured, the port that was found.
    pub addresses: Vec<SocketAddr>,
    /// Where metrics and health are served.
    pub http: Option<SocketAddr>,
    access: Access,
    phase: watch::Sender<Phase>,
    workers: Vec<WorkerHandle>,
    threads: Vec<std::thread::JoinHandle<()>>,
    accepting: Vec<JoinHandle<()>>,
    watching: JoinHandle<()>,
    recovering: JoinHandle<()>,
    deadlocks: JoinHandle<()>,
    failover: JoinHandle<()>,
    reshards: JoinHandle<()>,
    elsewhere: JoinHandle<()>,
    control: JoinHandle<()>,
    shutdown_timeout: Duration,
    _shaking: handshakes::Thread,
}

/// Brings the proxy up on the runtime it is called on, which becomes the control plane. `path` is where a reload reads.
pub async fn start(config: Config, path: Option<PathBuf>) -> Result<Handle, StartError> {
    let secret = ProcessSecret::random();
    let control_store = Arc::new(ControlStore::new(&config));
    let plant = Plant::build(config, &secret, None)?;
    let config = Arc::clone(&plant.config);
    let listeners = Listeners::open(&config.listen).await?;
    let epoch = Epoch(1);
    let moving = MovingKeys {
        overlays: reshards::first_overlays(&control_store).await,
        tenure: None,
        fleet: match control_store.is_shared() {
            true => Fleet::Shared,
            false => Fleet::Alone,
        },
    };
    let snapshot = plant.snapshot(
        &HashMap::new(),
        Arc::default(),
        &Arc::new(View::unseen(&config)),
        &moving,
        epoch,
    );
    let (handshakes, shaking) = handshakes::start()?;
    let (change, changes) = mpsc::unbounded_channel();
    let (place, placing) = mpsc::unbounded_channel();
    let (unresolve, unresolved) = mpsc::unbounded_channel();
    let timers = Timers::start().map_err(StartError::Thread)?;
    let topology = Arc::new(Topology::new(
        &config,
        Arc::clone(&plant.server_side.encryption),
    ));
    plant.follow_nodes(&topology);
    let watching = tokio::spawn(Arc::clone(&topology).watch());
    // Else the first node of each shard would be taken for its primary.
    topology.seen().await;
    let shared = Arc::new(Shared::new(
        snapshot,
        timers,
        handshakes,
        secret,
        ToControl {
            changed: change,
            placing: place,
            unresolved: unresolve,
        },
        Arc::clone(&topology),
    ));
    let mut readiness = Survey::default();
    readiness.ask(&topology, |_| true);
    let recovery = Arc::new(Recovery::new(Arc::clone(&topology)));
    let (requests, requested) = mpsc::unbounded_channel();
    let (phase, phases) = watch::channel(Phase::Serving);
    let (periods, ended_periods) = watch::channel(LastPeriod::default());
    let access = Access {
        requests,
        shared: Arc::clone(&shared),
        topology: Arc::clone(&topology),
        recovery: Arc::clone(&recovery),
        periods: ended_periods,
        phase: phases,
    };

    let (mut workers, mut threads) = (Vec::new(), Vec::new());
    for index in 0..config.workers {
        let (handle, commands) = worker::channel();
        let admin = access.clone();
        let surroundings = Surroundings {
            index,
            count: config.workers,
            shared: Arc::clone(&shared),
            admin,
        };
        threads.push(worker::start(surroundings, commands)?);
        workers.push(handle);
    }
    let recovering = tokio::spawn(Arc::clone(&recovery).run(unresolved));
    // Else the first commits of several shards would be refused. They are nobody's yet: sockets are open, and nothing is accepted.
    readiness.first().await;
    let deadlocks = Deadlocks::new(Arc::clone(&shared), Arc::clone(&topology), workers.clone());
    let deadlocks = tokio::spawn(deadlocks.run());
    let failover = Failover::new(
        Arc::clone(&control_store),
        Arc::clone(&topology),
        access.requests.clone(),
    );
    let (hear, heard) = mpsc::unbounded_channel();
    let elsewhere = Elsewhere::new(Arc::clone(&control_store), hear);
    let (move_keys, moved) = mpsc::unbounded_channel();
    let reshards = Reshards::new(
        control_store,
        Arc::clone(&topology),
        workers.clone(),
        move_keys,
    );
    let mut control = Control {
        path,
        plant,
        epoch,
        shared,
        topology,
        workers: workers.clone(),
        requests: requested,
        changes,
        placing,
        definitions: Definitions::default(),
        readiness,
        recovery,
        failover: Arc::clone(&failover),
        moving,
        moved,
        reshards: Arc::clone(&reshards),
        elsewhere: Arc::clone(&elsewhere),
        heard,
        published: Hearing::Yes,
    };
    if !control.readiness.known().is_empty() {
        control.publish().await;
    }
    let control = tokio::spawn(control.run());
    let failover = tokio::spawn(failover.run());
    let first = Arc::clone(&reshards);
    let reshards = tokio::spawn(reshards.run());
    first.first().await;
    let elsewhere = tokio::spawn(elsewhere.run());

    let addresses = listeners
        .tcp
        .iter()
        .filter_map(|listener| listener.local_addr().ok())
        .collect();
    let limit = config.limits.max_client_connections;
    let mut accepting: Vec<JoinHandle<()>> = listeners
        .tcp
        .into_iter()
        .map(|listener| tokio::spawn(accept::tcp(listener, workers.clone(), limit)))
        .collect();
    if let Some((listener, file)) = listeners.unix {
        accepting.push(tokio::spawn(accept::unix(
            listener,
            file,
            workers.clone(),
            limit,
        )));
    }
    let http = match config.listen.http {
        Some(address) => {
            let fail = |error| StartError::Listen {
                address: address.to_string(),
                error,
            };
            let listener = tokio::net::TcpListener::bind(address).await.map_err(fail)?;
            let bound = listener.local_addr().map_err(fail)?;
            accepting.push(tokio::spawn(admin::http::serve(listener, access.clone())));
            Some(bound)
        }
        None => None,
    };
    accepting.push(tokio::spawn(period::keep(periods, access.clone())));
    let shutdown_timeout = config.limits.shutdown_timeout;
    Ok(Handle {
        addresses,
        http,
        access,
        phase,
        workers,
        threads,
        accepting,
        watching,
        recovering,
        deadlocks,
        failover,
        reshards,
        elsewhere,
        control,
        shutdown_timeout,
        _shaking: shaking,
    })
}

impl Handle {
    /// Reads the configuration file again.
    pub async fn reload(&self) -> Result<(), Vec<Problem>> {
        self.access.ask(Request::Reload).await.unwrap_or(Ok(()))
    }

    /// Returns when the admin database has asked for the end.
    pub async fn ended(&mut self) {
        // A control plane that panicked is an end too.
        let _ = (&mut self.control).await;
    }

    /// Stops accepting, lets transactions finish, and sends clients away; those that do not finish in time are cut off.
    pub async fn shut_down(mut self) {
        for task in self.accepting.drain(..) {
            task.abort();
        }
        self.phase.send_replace(Phase::Draining);
        for worker in &self.workers {
            worker.send(Command::Drain);
        }
        let deadline = tokio::time::Instant::now() + self.shutdown_timeout;
        loop {
            let connections: usize = self.workers.iter().map(WorkerHandle::connections).sum();
            if connections == 0 {
                break;
            }
            if tokio::time::Instant::now() >= deadline {
                tracing::warn!(
                    connections,
                    "clients are cut off: they did not finish in time"
                );
                break;
            }
            tokio::time::sleep(DRAIN_POLL).await;
        }
        self.watching.abort();
        self.recovering.abort();
        self.deadlocks.abort();
        self.failover.abort();
        self.reshards.abort();
        self.elsewhere.abort();
        self.control.abort();
        self.workers.clear();
        let threads = std::mem::take(&mut self.threads);
        let joined = tokio::task::spawn_blocking(move || {
            threads.into_iter().for_each(|thread| drop(thread.join()))
        });
        // Only those two tasks' clones of the handles keep a worker's loop alive, and they were aborted.
        let _ = tokio::time::timeout(Duration::from_secs(5), joined).await;
    }

    /// What the workers say of themselves.
    pub async fn report(&self) -> Vec<WorkerReport> {
        self.access.ask(Request::Report).await.unwrap_or_default()
    }

    /// The end of [`Handle::ended`], asked for from here.
    pub fn request_shutdown(&self) {
        let _ = self.access.requests.send(Request::Shutdown);
    }
}
