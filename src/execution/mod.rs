//! Running a plan: the relay between one client and one server connection, and what several servers do together.
//!
//! `relay.rs` is for one shard; `branch.rs` for several at once, `merge/` for one result out of their rows.
//!
//! This room never decides where a statement goes and never reads SQL.

pub mod branch;
pub mod client;
pub mod columns;
pub mod copy;
pub mod merge;
pub mod relay;
