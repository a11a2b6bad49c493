//! The one integration binary: everything here runs on real Postgres servers that it starts itself.
//!
//! `servers.rs` holds the servers that tests share; they are started once, by the first test that asks, and end with this
//! process. A test that stops or breaks servers starts a cluster of its own.

mod command_line;
mod demo;
mod differential;
mod drivers;
mod hash_agreement;
mod local_cluster;
mod login;
mod one_server;
mod raw;
mod schema_reading;
mod servers;
mod sharded;
mod tls;
mod topology;
