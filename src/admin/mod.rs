//! How people and tools look at a running proxy and steer it: the admin database and HTTP.
//!
//! This room never touches a session or a pool itself: it asks the control plane through [`Access`]. It never shows a secret.
//!
//! Read `sql.rs` for the admin database, `sql/command.rs` for what it understands, `http.rs` for metrics and health.

pub mod http;
pub mod period;
mod sql;
mod totals;

#[cfg(test)]
pub(crate) use sql::reshard_rows;
pub use sql::serve;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use crate::catalog::QualifiedName;
use crate::catalog::placed::Place;
use crate::config::{Config, Problem};
use crate::execution::commit::Outcome;
use crate::execution::commit::by_hand::{NotResolved, Resolved};
use crate::execution::commit::id::TransactionId;
use crate::execution::commit::recovery::Recovery;
use crate::resharding;
use crate::session::report::WorkerReport;
use crate::session::shared::Shared;
use crate::sharding::ShardId;
use crate::topology::Topology;
use crate::topology::promotion::{Done, NotSwitched};

/// What the control plane does on request.
pub enum Request {
    Report(oneshot::Sender<Vec<WorkerReport>>),
    /// Read the configuration file again; all of it is put in force, or nothing.
    Reload(oneshot::Sender<Result<(), Vec<Problem>>>),
    /// Stop lending connections of the database (`None`: of all); answered when all that were lent have come back.
    Pause(Option<Box<str>>, oneshot::Sender<()>),
    Resume(Option<Box<str>>, oneshot::Sender<()>),
    /// Finish what is prepared of a transaction; as what, when nobody can know.
    Resolve {
        id: TransactionId,
        by_hand: Option<Outcome>,
        answer: oneshot::Sender<Result<Vec<Resolved>, NotResolved>>,
    },
    /// Make a replica (host and port) the primary of a shard, without losing anything.
    Switchover {
        shard: String,
        node: String,
        answer: oneshot::Sender<Result<Vec<Done>, NotSwitched>>,
    },
    /// A statement about plans that move data.
    Reshard(
        resharding::language::Statement,
        oneshot::Sender<Result<resharding::report::Answer, resharding::report::Refused>>,
    ),
    /// Record where a table belongs that is not there yet, or (`None`) forget it; answered when every proxy plans by that.
    Place {
        database: Box<str>,
        table: QualifiedName,
        place: Option<Place>,
        answer: oneshot::Sender<Result<(), resharding::report::Refused>>,
    },
    /// Who has connections of a shard's primary that a gate stands before; `None`: it does not yet on every worker.
    Lent(ShardId, oneshot::Sender<Option<Vec<LentTo>>>),
    /// Finish transactions, then exit.
    Shutdown,
    /// Cancel what the client with this key runs; answered when its server has been told.
    Cancel {
        process_id: i32,
        key: Vec<u8>,
        done: oneshot::Sender<()>,
    },
}

/// Connections of one pool in clients' hands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LentTo {
    pub user: Box<str>,
    pub database: Box<str>,
    pub connections: usize,
}

impl std::fmt::Display for LentTo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let LentTo {
            user,
            database,
            connections,
        } = self;
        write!(
            f,
            "{connections} connections are lent to {user} in {database}"
        )
    }
}

/// The way to the control plane.
#[derive(Clone)]
pub struct Access {
    pub requests: mpsc::UnboundedSender<Request>,
    pub shared: Arc<Shared>,
    pub topology: Arc<Topology>,
    pub recovery: Arc<Recovery>,
    pub periods: watch::Receiver<period::LastPeriod>,
    pub phase: watch::Receiver<Phase>,
}

/// What the process is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Serving,
    /// Clients leave when their transactions end, and the process after them.
    Draining,
}

/// The control plane has gone: the process is ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the proxy is shutting down")]
pub struct Gone;

impl Access {
    /// Asks and waits for the answer.
    pub async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, Gone> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(request(answer)).map_err(|_| Gone)?;
        answered.await.map_err(|_| Gone)
    }

    /// Returns when the process is about to end.
    pub async fn draining(&self) {
        // An error: whoever could say so is gone, which is the end too.
        let _ = self
            .phase
            .clone()
            .wait_for(|phase| *phase == Phase::Draining)
            .await;
    }

    /// Passes a cancel request on; what becomes of it is not told, as in Postgres.
    pub async fn cancel(&self, process_id: i32, key: &[u8]) {
        let key = key.to_vec();
        let _ = self
            .ask(|done| Request::Cancel {
                process_id,
                key,
                done,
            })
            .await;
    }
}

/// The name of a shard. A number where the configuration has just changed under the connection that is shown.
fn shard_name(config: &Config, shard: ShardId) -> String {
    config
        .shards
        .get(shard.index())
        .map_or_else(|| format!("#{}", shard.0), |shard| shard.name.clone())
}
