//! Running a plan: the relay between one client and one server connection.
//!
//! This room never decides where a statement goes and never reads SQL. Later kinds of plan (scatter, gather, write, two-phase
//! commit) get their files beside `relay.rs`.

pub mod client;
pub mod relay;
