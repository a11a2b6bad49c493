//! Calls over HTTP/1.1, in the clear or over TLS, that the control plane makes: to etcd's gateway, to Patroni, to the hook that fences.
//!
//! It knows nothing of what is asked, keeps no connections, asks nothing twice and follows no redirections: whoever calls decides all that. The data plane never uses it.
//! `connection.rs` is one connection, `call.rs` one question on a connection of its own.

mod call;
mod connection;

pub use call::{Answer, call};
pub use connection::{Broken, Connection, Dialer, Lines, request, whole};
