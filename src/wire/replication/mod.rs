//! What a server says of its changes: the messages inside the CopyBoth of START_REPLICATION, and those of the output plugin
//! `pgoutput` inside of them, versions 1 to 4.
//!
//! Pure: no socket, no clock, and nothing is kept of what was read but where in a transaction the stream is. Everything is borrowed from
//! the message's own bytes, and every length is checked before anything is given out. Nothing is skipped: what is not understood is an
//! error that says what was expected at which byte.
//! Read `copy_both.rs` for the outer messages, `pgoutput.rs` for the inner ones and their order, `row.rs` and `relation.rs` for what they
//! carry; `backend/replication/` for the connection.
//! Sources: <https://www.postgresql.org/docs/current/protocol-replication.html>,
//! <https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html>, Postgres
//! `src/backend/replication/logical/proto.c`.

mod copy_both;
mod lsn;
mod pgoutput;
mod reader;
mod relation;
mod row;
#[cfg(test)]
mod tests;

pub use copy_both::{Answering, CopyBoth, StandbyStatus};
pub use lsn::{InvalidLsn, Lsn};
pub use pgoutput::{
    AbortReport, Decoder, Emission, Identity, Message, Prepared, ProtocolVersion, RelationIds,
    Restart, Scope, Segment, Streaming,
};
pub use reader::DecodeError;
pub use relation::{
    Column, Columns, KeyPart, OwnedColumn, OwnedRelation, Relation, RelationId, ReplicaIdentity,
};
pub use row::{Row, Value, Values};

use std::fmt;
use std::time::Duration;

/// A transaction's number on its server, without epoch: it comes again after 2^32 transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xid(pub u32);

impl fmt::Display for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A server's clock: microseconds since the beginning of the year 2000, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Seconds from 1970 to 2000 (`POSTGRES_EPOCH_JDATE` and `UNIX_EPOCH_JDATE`).
    const EPOCH: u64 = 946_684_800;

    /// From the time since 1970, UTC. What is before 2000 is taken for its beginning, and what no `i64` holds for the last moment.
    pub fn from_unix(since: Duration) -> Timestamp {
        let since = since.saturating_sub(Duration::from_secs(Timestamp::EPOCH));
        Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    /// The time since 1970, UTC; `None`: before that.
    pub fn to_unix(self) -> Option<Duration> {
        let epoch = i128::from(Timestamp::EPOCH) * 1_000_000;
        let micros = epoch + i128::from(self.0);
        u64::try_from(micros).ok().map(Duration::from_micros)
    }
}
