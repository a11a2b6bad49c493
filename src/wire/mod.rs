//! The Postgres wire protocol, version 3: frames, startup, authentication, TLS.
//!
//! This room never decides where a statement goes and never holds a pool. It trusts no byte: every length is checked
//! before anything is buffered, and nothing here panics on any input.
//! Read `startup.rs` for a client's first packets, `auth.rs` for its proof, `message.rs` for what it says afterwards and
//! `answer.rs` for what Trunkline itself says; `replication/` for what a server says of its changes; `socket.rs` and `executor/` for how a worker waits for all of it.

pub mod answer;
pub mod auth;
pub mod executor;
pub mod frame;
pub mod handshakes;
pub mod message;
pub mod replication;
pub mod socket;
pub mod startup;
pub mod stream;
pub mod timers;
pub mod tls;
