//! Plans that move data, as this process takes part in them: it follows the control store (`here.rs`), drives the plans that nobody else drives (`drive.rs`), removes what plans have
//! left (`janitor.rs`), and does what operators ask for (`orders.rs`; `places.rs` where tables belong). What is decided is in `resharding/`, what is done to shards in `moving/`.

mod drive;
mod here;
mod janitor;
mod orders;
pub mod places;

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::control::{Fleet, Moved};
use super::control_store::ControlStore;
use super::worker::WorkerHandle;
use crate::moving::overlay::{Overlays, overlays};
use crate::moving::records::{self, Databases, PREFIX};
use crate::topology::Topology;

/// How long a beginning proxy waits for the store.
const FIRST: std::time::Duration = std::time::Duration::from_secs(10);

/// See the module's text.
pub struct Reshards {
    control_store: Arc<ControlStore>,
    topology: Arc<Topology>,
    workers: Vec<WorkerHandle>,
    /// The way to the control plane, which knows the workers.
    moved: mpsc::UnboundedSender<Moved>,
    /// What the store holds, as last seen.
    databases: watch::Sender<Arc<Databases>>,
}

impl Reshards {
    pub fn new(
        control_store: Arc<ControlStore>,
        topology: Arc<Topology>,
        workers: Vec<WorkerHandle>,
        moved: mpsc::UnboundedSender<Moved>,
    ) -> Arc<Reshards> {
        Arc::new(Reshards {
            control_store,
            topology,
            workers,
            moved,
            databases: watch::Sender::default(),
        })
    }

    /// Never ends by itself.
    pub async fn run(self: Arc<Self>) {
        let store = self.control_store.used().await;
        tokio::join!(self.stay(&store), self.drive_all(&store), self.tidy(&store));
    }

    fn fleet(&self) -> Fleet {
        match self.control_store.is_shared() {
            true => Fleet::Shared,
            false => Fleet::Alone,
        }
    }

    /// Waits until what the store holds is followed, if it may hold something, and as long as that comes soon. From then on whoever gives a table its place
    /// waits for this proxy.
    pub async fn first(&self) {
        let mut databases = self.databases.subscribe();
        if self.control_store.may_hold_something()
            && tokio::time::timeout(FIRST, databases.changed())
                .await
                .is_err()
        {
            tracing::warn!(
                "the control store does not answer: tables that this proxy does not know are refused"
            );
        }
    }

    fn name(&self) -> &str {
        self.control_store.name()
    }
}

/// The maps in force, for a process that begins: it must not serve by any other. Waits for a store that does not answer.
pub async fn first_overlays(control_store: &ControlStore) -> Arc<Overlays> {
    if !control_store.may_hold_something() {
        return Arc::default();
    }
    let store = control_store.used().await;
    loop {
        let listed = store.list(PREFIX).await;
        match listed.map(|listing| records::read(&listing)) {
            Ok(Ok(databases)) => return Arc::new(overlays(&databases)),
            Ok(Err(error)) => {
                tracing::error!(%error, "this proxy cannot begin: it may have to serve by another map")
            }
            Err(error) => {
                tracing::error!(%error, "this proxy cannot begin: the control store does not answer")
            }
        }
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    }
}
