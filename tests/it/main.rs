//! The one integration binary: everything here runs on real Postgres servers that it starts itself.
//!
//! `servers.rs` holds the servers that tests share; they are started once, by the first test that asks, and end with this
//! process. A test that stops or breaks servers starts a cluster of its own.

mod authentication;
mod cancelling;
mod command_line;
mod commit;
mod copy;
mod deadlocks;
mod demo;
mod differential;
mod drivers;
mod extended_protocol;
mod failover;
mod failover_view;
mod gather;
mod hash_agreement;
mod hidden_changes;
mod limits;
mod local_cluster;
mod login;
mod moves;
mod moving;
mod multi_shard_writes;
mod notifications;
mod numbers;
mod one_server;
mod party;
mod patroni;
mod pinning;
mod pools;
mod promotion;
mod proxy;
mod random_scripts;
mod raw;
mod recovery;
mod replica_reads;
mod replication_stream;
mod reshard_conditions;
mod result_shapes;
mod schema_reading;
mod sequences;
mod servers;
mod session_state;
mod sharded;
mod simple_protocol;
mod split_copy;
mod spread_failures;
mod sql_prepared;
mod store;
mod tls;
mod topology;
mod two_phase;
mod views;
mod wire_client;
