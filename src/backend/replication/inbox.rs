//! Bytes from the server, in which whole messages are found. Holds a read ahead of fixed size, or one larger message.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::ReplicationError;
use crate::wire::frame::HEADER;

/// What is read at once, bytes.
const READ_AHEAD: usize = 64 * 1024;
/// What is kept after a larger message, so that rows of some size do not make it grow each time, bytes.
const KEEP: usize = 1024 * 1024;

#[derive(Debug)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    /// What is here and was not given out: `bytes[start..end]`.
    start: usize,
    end: usize,
    /// The longest message, type and length included, bytes.
    limit: usize,
}

/// A whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub kind: u8,
    /// Its body, to be looked at before the next [`Inbox::poll_fill`].
    pub body: Range<usize>,
}

impl Inbox {
    pub(super) fn new(limit: usize) -> Inbox {
        Inbox {
            bytes: vec![0; READ_AHEAD],
            start: 0,
            end: 0,
            limit,
        }
    }

    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    #[inline]
    pub(super) fn body(&self, frame: Range<usize>) -> &[u8] {
        &self.bytes[frame]
    }

    /// The next message; `None`: not all of it is here.
    #[inline]
    pub(super) fn take(&mut self) -> Result<Option<Frame>, ReplicationError> {
        let Some((kind, total)) = self.first()? else {
            return Ok(None);
        };
        if self.end - self.start < total {
            return Ok(None);
        }
        let body = self.start + HEADER..self.start + total;
        self.start = body.end;
        Ok(Some(Frame { kind, body }))
    }

    /// Type and length of what comes next, header included.
    #[inline]
    fn first(&self) -> Result<Option<(u8, usize)>, ReplicationError> {
        let Some((&[kind, ref length @ ..], _)) =
            self.bytes[self.start..self.end].split_first_chunk::<HEADER>()
        else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if length < 4 {
            return Err(ReplicationError::Protocol("a message of impossible length"));
        }
        let total = length.saturating_add(1);
        if total > self.limit {
            return Err(ReplicationError::TooLarge {
                length: total,
                limit: self.limit,
            });
        }
        Ok(Some((kind, total)))
    }

    /// Reads once, as much as is there and has room; how much that was. 0 is the end.
    pub(super) fn poll_fill<R: AsyncRead + Unpin>(
        &mut self,
        stream: &mut R,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, ReplicationError>> {
        self.make_room()?;
        let mut room = ReadBuf::new(&mut self.bytes[self.end..]);
        let read: io::Result<()> = ready!(Pin::new(stream).poll_read(cx, &mut room));
        let length = room.filled().len();
        read?;
        self.end += length;
        Poll::Ready(Ok(length))
    }

    /// Called when no whole message is here. What is held grows with what has come, not with what was announced.
    fn make_room(&mut self) -> Result<(), ReplicationError> {
        let total = self.first()?.map_or(READ_AHEAD, |(_, total)| total);
        self.bytes.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.bytes.len() > KEEP && total.max(self.end) <= KEEP {
            self.bytes.truncate(KEEP);
            self.bytes.shrink_to_fit();
        }
        if self.end == self.bytes.len() {
            let wanted = total.min(self.bytes.len() * 2).max(self.end + 1);
            // Not twice what is here, as a growing Vec would take by itself.
            self.bytes.reserve_exact(wanted - self.bytes.len());
            self.bytes.resize(wanted, 0);
        }
        Ok(())
    }

    /// Bytes of memory that it takes.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.bytes.capacity()
    }
}
