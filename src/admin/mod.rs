//! How people and tools look at a running proxy and steer it: the admin database and HTTP.
//!
//! This room never touches a session or a pool itself: it asks the control plane through [`Access`].

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::config::Problem;
use crate::session::report::WorkerReport;
use crate::session::shared::Shared;
use crate::topology::Topology;

/// What the control plane does on request.
pub enum Request {
    Report(oneshot::Sender<Vec<WorkerReport>>),
    /// Read the configuration file again; all of it is put in force, or nothing.
    Reload(oneshot::Sender<Result<(), Vec<Problem>>>),
    /// Stop lending connections of the database (`None`: of all); answered when all that were lent have come back.
    Pause(Option<Box<str>>, oneshot::Sender<()>),
    Resume(Option<Box<str>>, oneshot::Sender<()>),
    /// Finish transactions, then exit.
    Shutdown,
    /// Cancel what the client with this key runs; answered when its server has been told.
    Cancel { process_id: i32, key: Vec<u8>, done: oneshot::Sender<()> },
}

/// The way to the control plane.
#[derive(Clone)]
pub struct Access {
    pub requests: mpsc::UnboundedSender<Request>,
    pub shared: Arc<Shared>,
    pub topology: Arc<Topology>,
}

/// The control plane has gone: the process is ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the proxy is shutting down")]
pub struct Gone;

impl Access {
    /// Asks and waits for the answer.
    pub async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Gone> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(request(answer)).map_err(|_| Gone)?;
        answered.await.map_err(|_| Gone)
    }

    /// Passes a cancel request on; what becomes of it is not told, as in Postgres.
    pub async fn cancel(&self, process_id: i32, key: &[u8]) {
        let key = key.to_vec();
        let _ = self.ask(|done| Request::Cancel { process_id, key, done }).await;
    }
}
pub async fn serve(_startup: crate::wire::startup::Startup, _access: &Access) {}
pub mod http { pub async fn serve(_l: tokio::net::TcpListener, _a: super::Access) {} }
