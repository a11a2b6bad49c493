//! The messages of pgoutput, and where each may stand.
//!
//! ```text
//! version 1   Begin, Origin?, (Relation | Type | Insert | Update | Delete | Truncate | Message)*, Commit
//!             Message (one that belongs to no transaction)
//! version 2   (StreamStart, Origin?, (Relation | ... | Message)*, StreamStop, StreamAbort*)+, (StreamCommit | StreamAbort)
//!             of several transactions in turns; each message inside has the number of its (sub)transaction
//! version 3   BeginPrepare, ..., Prepare        and later        CommitPrepared | RollbackPrepared
//!             (StreamStart, ..., StreamStop)+, StreamPrepare
//! version 4   StreamAbort says when and where, if streams are parallel
//! ```
//!
//! Sources: Postgres `src/backend/replication/logical/proto.c` for the fields, `src/backend/replication/pgoutput/pgoutput.c` for the order.

use super::reader::{DecodeError, Reader};
use super::relation::{self, Relation, RelationId};
use super::row::Row;
use super::{Lsn, Timestamp, Xid};

/// Of pgoutput's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProtocolVersion {
    V1,
    /// Transactions can be sent before they end. Postgres 14.
    V2,
    /// Prepared transactions are sent when they are prepared. Postgres 15.
    V3,
    /// Transactions sent before they end can be applied in parallel. Postgres 16.
    V4,
}

impl ProtocolVersion {
    /// As START_REPLICATION is told (`proto_version`).
    pub fn number(self) -> u8 {
        match self {
            ProtocolVersion::V1 => 1,
            ProtocolVersion::V2 => 2,
            ProtocolVersion::V3 => 3,
            ProtocolVersion::V4 => 4,
        }
    }
}

/// What becomes of transactions that are larger than the server's `logical_decoding_work_mem`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streaming {
    /// The server writes them to its disk, and sends them when they commit.
    Off,
    /// They are sent while they run, in pieces, and may yet be rolled back. Version 2.
    On,
    /// Likewise, and what is rolled back says when and where that was. Version 4.
    Parallel,
}

/// One message, borrowed from its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A transaction that has been committed begins.
    Begin {
        /// Of its commit record.
        commit: Lsn,
        committed_at: Timestamp,
        xid: Xid,
    },
    Commit {
        commit: Lsn,
        /// Behind the commit record: what to confirm when the transaction is safe.
        end: Lsn,
        committed_at: Timestamp,
    },
    /// The transaction came to the server from elsewhere, by a replication of its own (`pg_replication_origin`).
    Origin {
        /// Of its commit there.
        commit: Lsn,
        name: &'a str,
    },
    /// A table, before its first change and after it was changed itself.
    Relation {
        scope: Scope,
        relation: Relation<'a>,
    },
    /// A type that is not built in, before the table that uses it. Of a domain: its OID and its base type's name.
    Type {
        scope: Scope,
        oid: u32,
        schema: &'a str,
        name: &'a str,
    },
    Insert {
        scope: Scope,
        relation: RelationId,
        row: Row<'a>,
    },
    Update {
        scope: Scope,
        relation: RelationId,
        /// `None`: what the row is known by has not changed.
        old: Option<Identity<'a>>,
        /// With [`Value::Unchanged`](super::Value::Unchanged) for values out of line that were not touched.
        new: Row<'a>,
    },
    Delete {
        scope: Scope,
        relation: RelationId,
        old: Identity<'a>,
    },
    Truncate {
        scope: Scope,
        relations: RelationIds<'a>,
        cascade: bool,
        sequences: Restart,
    },
    /// Of `pg_logical_emit_message`.
    Message {
        scope: Scope,
        emission: Emission,
        /// Of its own record.
        lsn: Lsn,
        prefix: &'a str,
        content: &'a [u8],
    },
    /// A piece of a transaction that still runs.
    StreamStart {
        xid: Xid,
        segment: Segment,
    },
    StreamStop,
    StreamCommit {
        xid: Xid,
        commit: Lsn,
        /// As of [`Message::Commit`].
        end: Lsn,
        committed_at: Timestamp,
    },
    /// What was sent of a transaction, or of one of its subtransactions, is void.
    StreamAbort {
        xid: Xid,
        /// The same as `xid` when the whole transaction was rolled back.
        subtransaction: Xid,
        /// With [`Streaming::Parallel`] only.
        report: Option<AbortReport>,
    },
    /// A transaction that was prepared begins.
    BeginPrepare(Prepared<'a>),
    Prepare(Prepared<'a>),
    /// A streamed transaction was prepared.
    StreamPrepare(Prepared<'a>),
    CommitPrepared {
        commit: Lsn,
        end: Lsn,
        committed_at: Timestamp,
        xid: Xid,
        gid: &'a str,
    },
    RollbackPrepared {
        /// Behind the record of its PREPARE. Who was not sent that one has nothing to roll back.
        prepare_end: Lsn,
        /// Behind the record of its end.
        end: Lsn,
        prepared_at: Timestamp,
        rolled_back_at: Timestamp,
        xid: Xid,
        gid: &'a str,
    },
}

/// In which transaction a change was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In the one that the last Begin or BeginPrepare named; of a message that belongs to no transaction: in none.
    Whole,
    /// In a piece: the number of the subtransaction, or of the transaction itself. It counts if none of the StreamAbort that follow names it.
    Streamed(Xid),
}

/// What is sent of an old row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity<'a> {
    /// Its key; the other columns are there as NULL.
    Key(Row<'a>),
    /// All of it (REPLICA IDENTITY FULL).
    Row(Row<'a>),
}

impl<'a> Identity<'a> {
    pub fn row(self) -> Row<'a> {
        match self {
            Identity::Key(row) | Identity::Row(row) => row,
        }
    }
}

/// What TRUNCATE does with the sequences that the tables own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    Continue,
    Restart,
}

/// Whether a logical message is part of its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emission {
    /// It counts when the transaction commits, and is sent then, or in a piece.
    Transactional,
    /// It counts at once, whatever becomes of the transaction, and is sent at its own place in the log.
    Immediate,
}

/// Which piece of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    First,
    Further,
}

/// Where and when a transaction was rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortReport {
    pub lsn: Lsn,
    pub at: Timestamp,
}

/// A transaction's preparation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepared<'a> {
    /// Of the record of PREPARE TRANSACTION.
    pub prepare: Lsn,
    /// Behind it.
    pub end: Lsn,
    pub at: Timestamp,
    pub xid: Xid,
    /// As the client gave it.
    pub gid: &'a str,
}

/// OIDs of tables, each 4 bytes of the message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RelationIds<'a>(&'a [u8]);

impl<'a> RelationIds<'a> {
    pub fn iter(&self) -> impl ExactSizeIterator<Item = RelationId> + use<'a> {
        let (oids, _) = self.0.as_chunks();
        oids.iter().map(|oid| RelationId(u32::from_be_bytes(*oid)))
    }
}

impl std::fmt::Debug for RelationIds<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Where in the stream it is, which decides what may come next and what its fields are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Between,
    /// Behind Begin.
    Transaction,
    /// Behind BeginPrepare.
    Preparing,
    /// Behind StreamStart.
    Piece,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Place::Between => "between transactions",
            Place::Transaction => "in a transaction",
            Place::Preparing => "in a transaction to be prepared",
            Place::Piece => "in a piece of a streamed transaction",
        }
    }
}

/// Reads the messages of one stream, all of them and in their order.
#[derive(Clone, Debug)]
pub struct Decoder {
    version: ProtocolVersion,
    streaming: Streaming,
    place: Place,
}

impl Decoder {
    /// As START_REPLICATION was told.
    pub fn new(version: ProtocolVersion, streaming: Streaming) -> Decoder {
        Decoder {
            version,
            streaming,
            place: Place::Between,
        }
    }

    /// Reads the next message, which is all of `bytes`. After an error the stream cannot be read any further.
    #[inline]
    pub fn decode<'a>(&mut self, bytes: &'a [u8]) -> Result<Message<'a>, DecodeError> {
        let mut reader = Reader::new(bytes);
        let kind = reader.byte("the type of a pgoutput message")?;
        let after = self.admit(kind)?;
        let message = match kind {
            b'I' | b'U' | b'D' | b'T' | b'R' | b'Y' | b'M' => {
                let scope = match self.place {
                    Place::Piece => Scope::Streamed(Xid(reader.int32("a transaction's number")?)),
                    _ => Scope::Whole,
                };
                content(kind, scope, &mut reader)?
            }
            _ => self.boundary(kind, &mut reader)?,
        };
        if let (Message::Message { emission, .. }, Place::Between) = (message, self.place)
            && emission == Emission::Transactional
        {
            return Err(self.out_of_place(kind));
        }
        reader.end()?;
        self.place = after;
        Ok(message)
    }

    /// Where a message leads; an error when it cannot come here, or not at all.
    #[inline]
    fn admit(&self, kind: u8) -> Result<Place, DecodeError> {
        use Place::{Between, Piece, Preparing, Transaction};
        let (since, after) = match (kind, self.place) {
            (b'I' | b'U' | b'D' | b'T' | b'R' | b'Y', Transaction | Preparing | Piece) => {
                (ProtocolVersion::V1, Some(self.place))
            }
            (b'M', place) => (ProtocolVersion::V1, Some(place)),
            (b'O', Transaction | Preparing | Piece) => (ProtocolVersion::V1, Some(self.place)),
            (b'B', Between) => (ProtocolVersion::V1, Some(Transaction)),
            (b'C', Transaction) => (ProtocolVersion::V1, Some(Between)),
            (b'S', Between) => (ProtocolVersion::V2, Some(Piece)),
            (b'E', Piece) => (ProtocolVersion::V2, Some(Between)),
            (b'c' | b'A', Between) => (ProtocolVersion::V2, Some(Between)),
            (b'b', Between) => (ProtocolVersion::V3, Some(Preparing)),
            (b'P', Preparing) => (ProtocolVersion::V3, Some(Between)),
            (b'K' | b'r' | b'p', Between) => (ProtocolVersion::V3, Some(Between)),
            (b'I' | b'U' | b'D' | b'T' | b'R' | b'Y' | b'O' | b'B' | b'C', _) => {
                (ProtocolVersion::V1, None)
            }
            (b'S' | b'E' | b'c' | b'A', _) => (ProtocolVersion::V2, None),
            (b'b' | b'P' | b'K' | b'r' | b'p', _) => (ProtocolVersion::V3, None),
            _ => return Err(DecodeError::UnknownType(char::from(kind))),
        };
        let of_streams = matches!(kind, b'S' | b'E' | b'c' | b'A' | b'p');
        if since > self.version || (of_streams && self.streaming == Streaming::Off) {
            return Err(DecodeError::UnknownType(char::from(kind)));
        }
        after.ok_or_else(|| self.out_of_place(kind))
    }

    #[cold]
    fn out_of_place(&self, kind: u8) -> DecodeError {
        DecodeError::OutOfPlace {
            kind: char::from(kind),
            place: self.place.name(),
        }
    }

    /// Begins and ends of transactions and pieces.
    fn boundary<'a>(&self, kind: u8, reader: &mut Reader<'a>) -> Result<Message<'a>, DecodeError> {
        Ok(match kind {
            b'B' => Message::Begin {
                commit: place(reader, "the commit's place")?,
                committed_at: time(reader, "the time of the commit")?,
                xid: xid(reader)?,
            },
            b'C' => {
                reader.no_flags()?;
                Message::Commit {
                    commit: place(reader, "the commit's place")?,
                    end: place(reader, "the end of the commit")?,
                    committed_at: time(reader, "the time of the commit")?,
                }
            }
            b'O' => Message::Origin {
                commit: Lsn(reader.int64("the place of the commit at its origin")?),
                name: reader.text("an origin's name")?,
            },
            b'S' => Message::StreamStart {
                xid: xid(reader)?,
                segment: match reader.byte("which piece this is")? {
                    0 => Segment::Further,
                    1 => Segment::First,
                    other => return Err(reader.unexpected(1, "0 or 1", u64::from(other))),
                },
            },
            b'E' => Message::StreamStop,
            b'c' => {
                let xid = xid(reader)?;
                reader.no_flags()?;
                Message::StreamCommit {
                    xid,
                    commit: place(reader, "the commit's place")?,
                    end: place(reader, "the end of the commit")?,
                    committed_at: time(reader, "the time of the commit")?,
                }
            }
            b'A' => Message::StreamAbort {
                xid: xid(reader)?,
                subtransaction: xid(reader)?,
                report: match self.streaming {
                    // Postgres tells when version 4 and parallel streams were both asked for.
                    Streaming::Parallel if self.version >= ProtocolVersion::V4 => {
                        Some(AbortReport {
                            lsn: Lsn(reader.int64("the place of the abort")?),
                            at: time(reader, "the time of the abort")?,
                        })
                    }
                    _ => None,
                },
            },
            b'b' => Message::BeginPrepare(prepared(reader)?),
            b'P' => {
                reader.no_flags()?;
                Message::Prepare(prepared(reader)?)
            }
            b'p' => {
                reader.no_flags()?;
                Message::StreamPrepare(prepared(reader)?)
            }
            b'K' => {
                reader.no_flags()?;
                Message::CommitPrepared {
                    commit: place(reader, "the commit's place")?,
                    end: place(reader, "the end of the commit")?,
                    committed_at: time(reader, "the time of the commit")?,
                    xid: xid(reader)?,
                    gid: reader.text("a global transaction identifier")?,
                }
            }
            b'r' => {
                reader.no_flags()?;
                Message::RollbackPrepared {
                    prepare_end: place(reader, "the end of the preparation")?,
                    end: place(reader, "the end of the rollback")?,
                    prepared_at: time(reader, "the time of the preparation")?,
                    rolled_back_at: time(reader, "the time of the rollback")?,
                    xid: xid(reader)?,
                    gid: reader.text("a global transaction identifier")?,
                }
            }
            other => return Err(DecodeError::UnknownType(char::from(other))),
        })
    }
}

/// What a transaction consists of.
#[inline]
fn content<'a>(
    kind: u8,
    scope: Scope,
    reader: &mut Reader<'a>,
) -> Result<Message<'a>, DecodeError> {
    Ok(match kind {
        b'I' => {
            let relation = relation_id(reader)?;
            match reader.byte("a new row")? {
                b'N' => {}
                other => return Err(reader.unexpected(1, "a new row (N)", u64::from(other))),
            }
            Message::Insert {
                scope,
                relation,
                row: Row::read(reader)?,
            }
        }
        b'U' => {
            let relation = relation_id(reader)?;
            let mut tag = reader.byte("an old or a new row")?;
            let old = match tag {
                b'K' => Some(Identity::Key(Row::read(reader)?)),
                b'O' => Some(Identity::Row(Row::read(reader)?)),
                _ => None,
            };
            if old.is_some() {
                tag = reader.byte("a new row")?;
            }
            match (tag, &old) {
                (b'N', _) => {}
                (other, None) => {
                    return Err(reader.unexpected(
                        1,
                        "an old key, an old row or a new row (K, O or N)",
                        u64::from(other),
                    ));
                }
                (other, Some(_)) => {
                    return Err(reader.unexpected(1, "a new row (N)", u64::from(other)));
                }
            }
            Message::Update {
                scope,
                relation,
                old,
                new: Row::read(reader)?,
            }
        }
        b'D' => {
            let relation = relation_id(reader)?;
            let old = match reader.byte("an old row")? {
                b'K' => Identity::Key(Row::read(reader)?),
                b'O' => Identity::Row(Row::read(reader)?),
                other => {
                    return Err(reader.unexpected(
                        1,
                        "an old key or an old row (K or O)",
                        u64::from(other),
                    ));
                }
            };
            Message::Delete {
                scope,
                relation,
                old,
            }
        }
        b'T' => truncate(scope, reader)?,
        b'R' => Message::Relation {
            scope,
            relation: Relation::read(reader)?,
        },
        b'Y' => Message::Type {
            scope,
            oid: reader.int32("a type's OID")?,
            schema: relation::schema(reader)?,
            name: reader.text("a type's name")?,
        },
        b'M' => Message::Message {
            scope,
            emission: match reader.byte("a message's flags")? {
                0 => Emission::Immediate,
                1 => Emission::Transactional,
                other => return Err(reader.unexpected(1, "0 or 1", u64::from(other))),
            },
            lsn: Lsn(reader.int64("a message's place")?),
            prefix: reader.text("a message's prefix")?,
            content: reader.counted("a message's content")?,
        },
        other => return Err(DecodeError::UnknownType(char::from(other))),
    })
}

fn truncate<'a>(scope: Scope, reader: &mut Reader<'a>) -> Result<Message<'a>, DecodeError> {
    let count = reader.int32("the number of relations")?;
    let (cascade, sequences) = match reader.byte("the options of TRUNCATE")? {
        0 => (false, Restart::Continue),
        1 => (true, Restart::Continue),
        2 => (false, Restart::Restart),
        3 => (true, Restart::Restart),
        other => {
            return Err(reader.unexpected(1, "options of TRUNCATE (0 to 3)", u64::from(other)));
        }
    };
    // More than the address space is more than there is.
    let bytes = usize::try_from(u64::from(count) * 4).unwrap_or(usize::MAX);
    Ok(Message::Truncate {
        scope,
        relations: RelationIds(reader.take(bytes, "the OIDs of relations")?),
        cascade,
        sequences,
    })
}

fn prepared<'a>(reader: &mut Reader<'a>) -> Result<Prepared<'a>, DecodeError> {
    Ok(Prepared {
        prepare: place(reader, "the preparation's place")?,
        end: place(reader, "the end of the preparation")?,
        at: time(reader, "the time of the preparation")?,
        xid: xid(reader)?,
        gid: reader.text("a global transaction identifier")?,
    })
}

#[inline]
fn relation_id(reader: &mut Reader<'_>) -> Result<RelationId, DecodeError> {
    reader.int32("a relation's OID").map(RelationId)
}

fn xid(reader: &mut Reader<'_>) -> Result<Xid, DecodeError> {
    reader.int32("a transaction's number").map(Xid)
}

/// A place in the log. Postgres refuses 0 here, and to confirm it would mean nothing.
fn place(reader: &mut Reader<'_>, expected: &'static str) -> Result<Lsn, DecodeError> {
    match reader.int64(expected)? {
        0 => Err(reader.unexpected(8, expected, 0)),
        place => Ok(Lsn(place)),
    }
}

fn time(reader: &mut Reader<'_>, expected: &'static str) -> Result<Timestamp, DecodeError> {
    reader
        .int64(expected)
        .map(|time| Timestamp(time.cast_signed()))
}
