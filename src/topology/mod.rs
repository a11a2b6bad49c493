//! Where shards live and whether they are well: every node is asked at an interval, over the control plane's own connections.
//!
//! This room never looks at a statement and never touches the data plane's pools. But for `promotion/`, which does what it is told to, it never changes what runs
//! on a node: it looks and remembers, tells what it has found ([`Topology::views`]), and lends connections to the control plane's other parts ([`Topology::primary`]).
//! All of it runs on the control plane's runtime; only [`Topology::sighted`] is called from everywhere.
//! The pure parts decide, and are to be read first: `known.rs` (all that is known of a shard, and the view that follows) with `succession.rs` (who is the primary), `health.rs`
//! (one node), `lag.rs`, `ejection.rs` and `pace.rs` (when to look). `view.rs` is what the data plane gets.
//! `watch.rs` holds all shards, `shard.rs` asks one's nodes and logs, `node.rs` is one node with its connection, `connect.rs` opens a connection, `position.rs` is what is asked and `answer.rs`
//! what comes back; `patroni.rs` asks a node's Patroni. `primary.rs` has what is lent, `pool.rs` the pool under it. `drain.rs` takes nodes out. `promotion/` makes primaries. `roles.rs` asks a server for users that are not configured.

mod answer;
pub mod choice;
pub mod connect;
mod drain;
mod ejection;
mod health;
mod known;
mod lag;
mod node;
mod pace;
mod patroni;
mod pool;
mod position;
mod primary;
pub mod promotion;
mod roles;
mod shard;
mod succession;
pub mod view;
mod watch;

pub use answer::{Lock, Lsn, Role, SystemIdentifier, Timeline};
pub use connect::{Login, NodeError};
pub use drain::{DrainError, Service};
pub use primary::{Identity, Primary};
pub use roles::{Census, RoleError, Roles};
pub use shard::NodeStatus;
pub use watch::{Topology, TopologyError, WayIn, control_role};
