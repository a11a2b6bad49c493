//! Who may log in, and how servers are logged in to: real clients, the proxy, real servers that ask for passwords.
//!
//! `stage.rs` has the servers, the proxy and the clients.

mod certificates;
mod drivers;
mod lookups;
mod rules;
mod stage;
