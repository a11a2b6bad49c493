//! Who makes a primary: switchovers that an administrator asks for, and promotions when a primary is lost.
//!
//! What is asked of servers and decided of their answers is in `topology/promotion/`; here are the leases, the records in the control store, and the order.
//! This never sends a client's statement anywhere: it hides a primary behind a gate, and what waits goes on when there is one again.
//!
//! Keys of the control store: `switchovers/SHARD` is the one under way ([`record::Switchover`]), and every proxy that sees it stands before its gate;
//! `gated/SHARD/PROXY` is that proxy's word that nothing is lent; `proxies/PROXY` says what a proxy sees of primaries, as long as it holds the lease
//! `alive/PROXY`; `promotions/SHARD` is the last promotion ([`record::Promotion`]). The lease `primary/SHARD` is held by whoever works on a shard's primary.
//!
//! `switchover.rs` drives one from its first step to its last, `settle.rs` ends what somebody else has left, `promote.rs` replaces a lost primary, `fleet.rs`
//! is about the other proxies, `program.rs` runs the programs that the administrator has configured, and `hook.rs` makes the call.

mod fleet;
mod hook;
mod program;
mod promote;
mod record;
mod settle;
mod switchover;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::mpsc;

use super::control_store::ControlStore;
use crate::admin::{LentTo, Request};
use crate::config;
use crate::sharding::ShardId;
use crate::store::{Claim, Lease, Store, StoreError};
use crate::topology::Topology;
use crate::topology::promotion::Gate;
use crate::topology::view::NodePlace;

/// See the module's text.
pub struct Failover {
    topology: Arc<Topology>,
    /// The way to the control plane, which knows the workers.
    requests: mpsc::UnboundedSender<Request>,
    control_store: Arc<ControlStore>,
    /// The shards that a task of this process works on.
    driven: Mutex<HashSet<String>>,
}

/// A shard that a task of this process works on, until it is dropped.
struct Driven<'a> {
    failover: &'a Failover,
    shard: String,
}

impl Drop for Driven<'_> {
    fn drop(&mut self) {
        self.failover.driven().remove(&self.shard);
    }
}

impl Failover {
    pub fn new(
        control_store: Arc<ControlStore>,
        topology: Arc<Topology>,
        requests: mpsc::UnboundedSender<Request>,
    ) -> Arc<Failover> {
        Arc::new(Failover {
            topology,
            requests,
            control_store,
            driven: Mutex::default(),
        })
    }

    /// Watches what other proxies do, ends what they have left, and promotes where that is configured. Never ends by itself.
    pub async fn run(self: Arc<Self>) {
        let store = self.control_store.used().await;
        let shared = async {
            if self.control_store.is_shared() {
                tokio::join!(self.register(&store), self.promote(&store));
            }
        };
        tokio::join!(self.follow(&store), shared);
    }

    /// The control store, opened when it is needed first.
    async fn store(&self) -> Result<Store, StoreError> {
        self.control_store.open().await
    }

    /// This process, in the store.
    fn name(&self) -> &str {
        self.control_store.name()
    }

    /// The lease of a shard's primary, or who has it.
    async fn claim(&self, store: &Store, shard: &str) -> Result<Result<Lease, String>, StoreError> {
        let name = format!("primary/{shard}");
        Ok(
            match store.lease(&name, self.name(), store.lease_ttl()).await? {
                Claim::Held(lease) => Ok(lease),
                Claim::Taken(holder) => Err(holder.name),
            },
        )
    }

    fn driven(&self) -> MutexGuard<'_, HashSet<String>> {
        self.driven
            .lock()
            .expect("nothing panics while it holds the lock")
    }

    /// Unless a task works on it already.
    fn drive(&self, shard: &str) -> Option<Driven<'_>> {
        self.driven().insert(shard.to_owned()).then(|| Driven {
            failover: self,
            shard: shard.to_owned(),
        })
    }

    fn gate(&self, shard: ShardId, node: NodePlace) {
        let gate = Gate {
            node,
            why: "a switchover is under way".into(),
        };
        self.topology.set_gate(shard, Some(gate));
    }

    /// Who has connections of a gated shard's primary; `None`: the workers have not heard of the gate yet, or are gone.
    async fn lent(&self, shard: ShardId) -> Option<Vec<LentTo>> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        self.requests.send(Request::Lent(shard, answer)).ok()?;
        answered.await.ok()?
    }
}

/// Host and port, for people and programs.
fn address(node: &config::Node) -> String {
    format!("{}:{}", node.host, node.port)
}
