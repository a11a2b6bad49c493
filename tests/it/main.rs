//! The one integration binary: everything here runs on real Postgres servers that it starts itself.
//!
//! `servers.rs` holds the servers that tests share; they are started once, by the first test that asks, and end with this
//! process. A test that stops or breaks servers starts a cluster of its own.

mod cancelling;
mod copy;
mod demo;
mod extended_protocol;
mod hash_agreement;
mod limits;
mod local_cluster;
mod one_server;
mod pools;
mod proxy;
mod random_scripts;
mod schema_reading;
mod servers;
mod session_state;
mod simple_protocol;
mod wire_client;
