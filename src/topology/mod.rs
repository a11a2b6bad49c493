//! Where shards live and whether they are well: every node is asked at an interval, over the control plane's own connections.
//!
//! This room never looks at a statement, never touches the data plane's pools, and never changes what runs on a node: it looks and remembers,
//! and lends connections to the control plane's other parts ([`Topology::primary`]).
//! All of it runs on the control plane's runtime. Read `health.rs` first: it is the pure part that decides what answers mean;
//! `watch.rs` holds all shards, `shard.rs` asks one's nodes and logs, `node.rs` is one node with its pool, `connect.rs` opens a connection, `position.rs` is what is asked.
//! `primary.rs` has what is lent, `pool.rs` the pool under both. `roles.rs` asks a server for users that are not configured.

pub mod choice;
pub mod connect;
mod health;
mod node;
mod pool;
mod position;
mod primary;
mod roles;
mod shard;
pub mod view;
mod watch;

pub use connect::{Login, NodeError};
pub use health::{Lsn, NodeState, Role, SystemIdentifier, Timeline};
pub use primary::{Identity, Primary};
pub use roles::{Census, RoleError, Roles};
pub use shard::NodeStatus;
pub use watch::{Topology, TopologyError, control_role};
