//! Replication connections: slots, and the stream of a database's changes.
//!
//! They are no part of a pool, are never lent, and live on the control plane's runtime, where a task may go from thread to thread. This
//! room confirms nothing by itself: what was received counts as safe only when its user says so, because the server forgets it then.
//! What is held in memory is one message and a read ahead of some 64 kB; a user that does not ask for more makes the server wait.
//! Read `connection.rs` for the commands, `stream.rs` for the changes, `command.rs` for what differs between versions of Postgres,
//! `wire/replication/` for the messages.
//! Sources: <https://www.postgresql.org/docs/current/protocol-replication.html>, Postgres
//! `src/backend/replication/libpqwalreceiver/libpqwalreceiver.c` (what its own subscribers say) and `walsender.c` (what they are told).

mod command;
mod connection;
mod inbox;
pub mod publication;
mod stream;
#[cfg(test)]
mod tests;

pub use command::{
    Failover, InvalidName, Lifetime, Logical, Origins, PublicationName, ServerMajor, SlotName,
    SlotRequest, Snapshot, StreamRequest, TwoPhase, WhenInUse,
};
pub use connection::{NewSlot, ReplicationConnection, Row, SlotState, System, WalStatus};
pub use stream::{ChangeStream, Event, Limits};

use std::fmt;
use std::io;
use std::time::Duration;

use super::connect::ConnectError;
use crate::wire::answer::ErrorFields;
use crate::wire::replication::{DecodeError, Lsn};

/// Why a replication connection did not do what it was asked for. But for [`Server`](ReplicationError::Server) from a command,
/// [`Unsupported`](ReplicationError::Unsupported) and [`NeverReceived`](ReplicationError::NeverReceived) the connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum ReplicationError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// In the server's own words.
    #[error("{0}")]
    Server(Box<Refused>),
    #[error("the connection to the server broke: {0}")]
    Io(#[from] io::Error),
    /// Without a word.
    #[error("the server closed the connection")]
    Closed,
    /// It was asked for a sign of life.
    #[error("the server has been silent for {0:?}")]
    Silent(Duration),
    #[error("no answer in time")]
    Timeout,
    #[error("a message of {length} bytes is larger than the limit of {limit}")]
    TooLarge { length: usize, limit: usize },
    #[error("the server broke the protocol: {0}")]
    Protocol(&'static str),
    #[error("a replication message cannot be read: {0}")]
    Envelope(#[source] DecodeError),
    #[error("a change at {at} cannot be read: {error}")]
    Change {
        at: Lsn,
        #[source]
        error: DecodeError,
    },
    #[error("{what} needs Postgres {since}, and the server is Postgres {found}")]
    Unsupported {
        what: &'static str,
        since: ServerMajor,
        found: ServerMajor,
    },
    /// To confirm it would make the server throw away what was never sent.
    #[error("{confirmed} was to be confirmed, and only what is before {received} was received")]
    NeverReceived { confirmed: Lsn, received: Lsn },
    #[error(
        "the stream was to begin at {from}, and the server's log ends at {flushed}: a part of it was lost"
    )]
    LogLost { from: Lsn, flushed: Lsn },
    #[error("this connection was a stream, and Postgres would end a second one at once")]
    Spent,
    #[error("a statement cannot hold a NUL")]
    Nul,
    /// Its answer may still come.
    #[error("an earlier command was given up before its answer came")]
    Abandoned,
}

impl ReplicationError {
    /// What the server said, if it did: `55006` a slot in use, `42704` no such slot, `55000` a slot that was invalidated, ...
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            ReplicationError::Server(refused) => Some(&refused.sqlstate),
            ReplicationError::Connect(ConnectError::Server { sqlstate, .. }) => Some(sqlstate),
            _ => None,
        }
    }
}

/// A server's ErrorResponse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub severity: String,
    pub sqlstate: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl Refused {
    /// From the body of its message.
    fn read(body: &[u8]) -> ReplicationError {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match ErrorFields::parse(body) {
            Some(fields) => ReplicationError::Server(Box::new(Refused {
                severity: text(fields.severity),
                sqlstate: fields.sqlstate.to_owned(),
                message: text(fields.message),
                detail: fields.detail.map(text),
                hint: fields.hint.map(text),
            })),
            None => ReplicationError::Protocol("an ErrorResponse that cannot be read"),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} (SQLSTATE {})",
            self.severity, self.message, self.sqlstate
        )?;
        for (what, text) in [("detail", &self.detail), ("hint", &self.hint)] {
            if let Some(text) = text {
                write!(f, "; {what}: {text}")?;
            }
        }
        Ok(())
    }
}
