//! One server connection: how it is opened and logged in, what it remembers, and the pool of them.
//!
//! This room never decides which shard a statement belongs to; it is told. It never lends a connection that is not proven
//! clean: dropping a [`pool::Lent`] closes it, and only [`pool::Lent::release`] makes it available again.
//! Read `connect.rs` for the login, `server.rs` for what a connection remembers, `pipeline.rs` for how replies are matched
//! with requests, `pool.rs` for the lending; `replication/` for connections that follow a server's changes.

pub mod again;
pub mod cancel;
pub mod connect;
pub mod pipeline;
pub mod pool;
pub mod position;
pub mod prepared;
pub mod replication;
pub mod server;
pub mod settings;
pub mod undone;
