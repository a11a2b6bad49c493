//! Connections to servers: how one is opened and logged in, and how a statement on it is cancelled.
//!
//! This room never looks at a statement and never decides which node is asked.
//! Read `connect.rs` for the login.

pub mod connect;
