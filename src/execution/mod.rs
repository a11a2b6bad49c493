//! Running a plan: the relay between one client and one server connection.
//!
//! `relay.rs` is for one shard; `branch.rs` for several at once.
//!
//! This room never decides where a statement goes and never reads SQL.

pub mod branch;
pub mod client;
pub mod copy;
pub mod relay;
