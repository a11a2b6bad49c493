//! The commands. This room builds everything and is imported by nothing but `main.rs` and the tests.
//!
//! It decides nothing about statements, and keeps no state of its own beyond a command's run.
//! Read `demo/mod.rs` for the tour, `local/mod.rs` for the Postgres servers on this machine.

pub mod demo;
pub mod local;
