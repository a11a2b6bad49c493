//! What the two sides of a replication say to each other in CopyData, once START_REPLICATION was answered by CopyBothResponse.
//! Source: Postgres `src/backend/replication/walsender.c` (`WalSndPrepareWrite`, `WalSndKeepalive`, `ProcessStandbyReplyMessage`).

use super::reader::{DecodeError, Reader};
use super::{Lsn, Timestamp};
use crate::wire::answer;

/// The body of a server's CopyData.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyBoth<'a> {
    /// XLogData: something of the log, or of what an output plugin made of it.
    Data {
        /// Where it is in the log. For a commit the place behind it. 0 for what is not in the log itself, as descriptions of tables.
        start: Lsn,
        /// For logical replication the same as `start`.
        end: Lsn,
        /// When it was sent.
        clock: Timestamp,
        /// For pgoutput one message, to be read by [`Decoder::decode`](super::Decoder::decode).
        payload: &'a [u8],
    },
    Keepalive {
        /// All that concerns this stream and is before this place has been sent.
        end: Lsn,
        clock: Timestamp,
        answering: Answering,
    },
}

/// Whether the other side wants an answer now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answering {
    /// Otherwise it soon takes this side for dead.
    AtOnce,
    WhenConvenient,
}

impl<'a> CopyBoth<'a> {
    /// `body`: what follows type and length of a CopyData.
    #[inline]
    pub fn decode(body: &'a [u8]) -> Result<CopyBoth<'a>, DecodeError> {
        let mut reader = Reader::new(body);
        match reader.byte("the type of a replication message")? {
            b'w' => Ok(CopyBoth::Data {
                start: Lsn(reader.int64("where the data starts")?),
                end: Lsn(reader.int64("where the log ends")?),
                clock: Timestamp(reader.int64("the server's clock")?.cast_signed()),
                payload: reader.rest(),
            }),
            b'k' => {
                let end = Lsn(reader.int64("where the log ends")?);
                let clock = Timestamp(reader.int64("the server's clock")?.cast_signed());
                let answering = match reader.byte("whether to answer")? {
                    0 => Answering::WhenConvenient,
                    1 => Answering::AtOnce,
                    other => {
                        return Err(reader.unexpected(1, "0 or 1", u64::from(other)));
                    }
                };
                reader.end()?;
                Ok(CopyBoth::Keepalive {
                    end,
                    clock,
                    answering,
                })
            }
            other => Err(DecodeError::UnknownType(char::from(other))),
        }
    }
}

/// How far this side is. Keeps the server from taking it for dead (`wal_sender_timeout`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandbyStatus {
    /// Behind the last byte received.
    pub written: Lsn,
    /// Behind the last byte that is safe here. The slot remembers it, and the server may throw the log before it away.
    pub flushed: Lsn,
    /// Behind the last byte that can be seen here.
    pub applied: Lsn,
    pub clock: Timestamp,
    /// Whether the server is asked for a keepalive.
    pub answering: Answering,
}

impl StandbyStatus {
    /// Appends the whole CopyData.
    pub fn encode(&self, out: &mut Vec<u8>) {
        answer::message(out, b'd', |out| {
            out.push(b'r');
            for place in [self.written, self.flushed, self.applied] {
                out.extend_from_slice(&place.0.to_be_bytes());
            }
            out.extend_from_slice(&self.clock.0.to_be_bytes());
            out.push(match self.answering {
                Answering::AtOnce => 1,
                Answering::WhenConvenient => 0,
            });
        });
    }
}
