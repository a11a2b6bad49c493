//! Running a plan: the relay between one client and one server connection, and the merge of several servers' rows into one result.
//!
//! This room never decides where a statement goes and never reads SQL. Later kinds of plan (gather, write, two-phase commit) get their
//! files beside `relay.rs` and `merge/`.

pub mod client;
pub mod columns;
pub mod merge;
pub mod relay;
