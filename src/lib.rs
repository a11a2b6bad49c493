//! Trunkline: one connection string in front of many Postgres servers.
//!
//! The life of a statement, by the rooms it passes (docs/ARCHITECTURE.md has the whole picture):
//!
//! 1. [`server`] accepted its client, and `wire` encrypted and authenticated the connection.
//! 2. [`session`] takes the message that holds it from the client's inbox.
//! 3. [`plan`] knows its shape already, or asks [`sql`] for facts about the text and [`catalog`] for what they concern,
//!    and decides: one shard, any shard, or a refusal with an id.
//! 4. `plan::bind` and [`sharding`] turn the key's value into a shard.
//! 5. [`backend`] lends a connection to that shard's node, brought to the session's settings.
//! 6. [`execution`] relays bytes, both ways at once, until the server is ready for the next one.
//!
//! [`resharding`] decides what moves between shards, beside all that, and [`moving`] moves it. [`topology`] watches the nodes, [`store`] keeps what a fleet of proxies
//! agrees on, [`admin`] lets people look and steer, [`cli`] builds everything. [`http`] makes calls, [`config`] is plain data.
//! Imports go down this list of floors only, which `tests/tidy.rs` checks: cli, server, admin and moving, session and resharding,
//! execution, topology,
//! plan and backend, sql and catalog, wire and sharding and store, http, config.

pub mod admin;
pub mod backend;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod execution;
pub mod http;
pub mod moving;
pub mod plan;
pub mod resharding;
pub mod server;
pub mod session;
pub mod sharding;
pub mod sql;
pub mod store;
pub mod topology;
pub mod wire;
