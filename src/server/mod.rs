//! The running proxy: accepting, limiting, handing clients to workers; the control plane that follows configuration and
//! schema; draining.
//!
//! This room never looks at a statement. Read [`start`] for how it comes up, `worker.rs` for one thread of the data plane,
//! `accept.rs` for new connections, `control.rs` for reloads and the servers' definitions.

mod accept;
mod control;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::catalog::{self, Catalog, Epoch};
use crate::config::{Config, Problem};
use crate::session::shared::{Shared, Snapshot};
use crate::topology::Topology;
use crate::wire::auth::{AuthSecrets, BadVerifier, ProcessSecret};
use crate::wire::tls::{Acceptor, ClientEncryption, Connector, ServerEncryption, TlsError};

pub use control::Control;

/// Why the proxy does not come up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the configuration has mistakes:\n{}", lines(.0))]
    Config(Vec<Problem>),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Verifier(#[from] BadVerifier),
    #[error("cannot listen on {address}: {error}")]
    Listen { address: String, error: io::Error },
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("  {problem}")).collect::<Vec<_>>().join("\n")
}
