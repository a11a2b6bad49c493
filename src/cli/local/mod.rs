//! Real Postgres servers on this machine: for the demo and for the tests.
//!
//! Never for production: durability is optional, everything listens on loopback, and what was started ends with us.
//! The promise is that nothing stays behind: a [`Server`] stops when dropped, and a watchdog stops it when this
//! process dies in any other way (`watchdog.rs`).
//!
//! All calls block. Read `cluster.rs` first, then `server.rs`; `installation.rs` finds the binaries, `account.rs` says
//! as which user they run, `folder.rs` guards what may be written and removed.

mod account;
mod cluster;
mod error;
mod folder;
mod installation;
mod port;
mod server;
mod settings;
mod watchdog;

pub use account::Account;
pub use cluster::{Cluster, ClusterOptions, LocalShard, Storage};
pub use error::LocalError;
pub use installation::{Installation, MINIMUM_MAJOR};
pub use port::first_free_port;
pub use server::{Server, StopMode};
pub use settings::{Access, Durability, Password, SUPERUSER, ServerOptions};
