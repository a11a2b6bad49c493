//! Why a node gave no answer, and what to do about it.

use std::error::Error as _;
use std::fmt;
use std::io::{self, ErrorKind};

use tokio_postgres::error::SqlState;

use crate::topology::NodeError;

/// Why there is no answer.
pub(super) enum Trouble {
    Node(NodeError),
    Other(String),
}

impl Trouble {
    /// Whether it is the same for every user and database.
    pub(super) fn is_of_the_node(&self) -> bool {
        match self {
            Trouble::Node(NodeError::Slow(_)) => true,
            Trouble::Node(NodeError::Postgres(error)) => {
                error.code().is_none() && !is_password_missing(error)
            }
            Trouble::Node(NodeError::Strange(_)) | Trouble::Other(_) => false,
        }
    }

    pub(super) fn advice(&self) -> &'static str {
        match self {
            Trouble::Node(NodeError::Slow(_)) => {
                "check the host, the port and firewalls between, or raise pool.connect_timeout"
            }
            Trouble::Node(NodeError::Postgres(error)) => match error.code() {
                Some(code) => advice_on_code(code),
                None => advice_on_connection(error),
            },
            Trouble::Node(NodeError::Strange(_)) => "check that what listens there is Postgres",
            Trouble::Other(_) => "try again",
        }
    }
}

fn advice_on_code(code: &SqlState) -> &'static str {
    if *code == SqlState::INVALID_PASSWORD {
        "check the role's password on the server and server_password in the file"
    } else if *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION {
        "check that the role exists and may log in, and that pg_hba.conf on the server has a line for it"
    } else if *code == SqlState::INVALID_CATALOG_NAME {
        "create the database on the server, or set server_database"
    } else if *code == SqlState::TOO_MANY_CONNECTIONS {
        "raise max_connections on the server, or lower pool.size"
    } else if *code == SqlState::CANNOT_CONNECT_NOW {
        "wait until the server has started, and try again"
    } else if *code == SqlState::INSUFFICIENT_PRIVILEGE {
        "grant the role CONNECT on the database"
    } else {
        "see the server's log"
    }
}

/// The network's own error, when there is not even a socket.
fn network(error: &tokio_postgres::Error) -> Option<&io::Error> {
    error
        .source()
        .filter(|_| error.to_string() == "error connecting to server")
        .and_then(|source| source.downcast_ref())
}

fn advice_on_network(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::ConnectionRefused => {
            "check that Postgres runs there, on this port, and that its listen_addresses has this address"
        }
        ErrorKind::NotFound => {
            "check that Postgres runs there and that its unix_socket_directories has this directory"
        }
        ErrorKind::PermissionDenied => "give the user that runs this command access to the socket",
        _ => "check the host, the port and the network between",
    }
}

/// The server asked for a password and there is none to give.
fn is_password_missing(error: &tokio_postgres::Error) -> bool {
    error
        .source()
        .is_some_and(|source| source.to_string().contains("password missing"))
}

/// An error before or beside what the server says: in TLS, in the login, in the protocol.
fn advice_on_connection(error: &tokio_postgres::Error) -> &'static str {
    let said = format!(
        "{error} {}",
        error.source().map(ToString::to_string).unwrap_or_default()
    );
    if let Some(error) = network(error) {
        advice_on_network(error)
    } else if is_password_missing(error) {
        "the server asks for a password; give server_password"
    } else if said.contains("does not support TLS") {
        "set ssl = on on the server, or another server_tls.mode"
    } else if said.contains("TLS handshake") {
        "check the server's certificate, server_tls.root_certificate, and that the host is named in the certificate"
    } else {
        "check that what listens there is Postgres"
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Node(error) => error.fmt(f),
            Trouble::Other(what) => f.write_str(what),
        }
    }
}
