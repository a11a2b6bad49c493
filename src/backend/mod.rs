//! One server connection, and the pool of them.
//!
//! This room never decides which shard a statement belongs to; it is told. It never lends a connection that is not proven clean:
//! dropping a [`server::Server`] closes it, and only [`pool::Pool::release`] makes it available again.
//! Read `server.rs` for what a connection remembers, `pipeline.rs` for how replies are matched with requests, `pool.rs` for the lending.

pub mod connect;
pub mod pipeline;
pub mod pool;
pub mod prepared;
pub mod server;
pub mod settings;
