//! The client's end: its socket, the messages that have arrived, and the bytes it has not yet taken.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use crate::wire::stream::Stream;

/// What the inbox may keep when it is empty, bytes: room for a statement, and yet an idle client costs little.
const KEEP: usize = 1024;

/// The same while the client sends COPY data, which fill what one read can take again and again.
const KEEP_IN_COPY: usize = 128 * 1024;

/// What the outbox may keep: servers' answers pass it by, and our own are short.
const KEEP_OUTBOX: usize = 128;

/// The client went away.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the client closed the connection")]
    Closed,
    #[error("the connection to the client broke: {0}")]
    Io(#[from] io::Error),
    /// The process ends and the client was idle.
    #[error("the process ends")]
    Drained,
}

/// What is to be expected of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coming {
    Statements,
    CopyData,
}

/// The socket of a client with its buffers.
pub struct Client {
    stream: Stream,
    /// Bytes received and not yet dealt with, from `taken`.
    pub inbox: Vec<u8>,
    /// Bytes for the client, from `sent`.
    pub outbox: Vec<u8>,
    sent: usize,
    unflushed: bool,
    pub received_bytes: u64,
    pub sent_bytes: u64,
}

impl Client {
    pub fn new(stream: Stream) -> Client {
        Client {
            stream,
            inbox: Vec::new(),
            outbox: Vec::new(),
            sent: 0,
            unflushed: false,
            received_bytes: 0,
            sent_bytes: 0,
        }
    }

    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Gives the bare stream back, for another way of speaking to this client.
    pub fn into_stream(self) -> Stream {
        self.stream
    }

    /// All that was ever meant for the client, sent or not: bytes.
    pub fn produced(&self) -> u64 {
        self.sent_bytes + (self.outbox.len() - self.sent) as u64
    }

    /// The client is behind with reading.
    pub fn is_behind(&self) -> bool {
        self.sent < self.outbox.len()
    }

    /// Writes `bytes` at once as far as the socket takes them; keeps the rest. Order with earlier bytes is kept.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Result<(), ClientError> {
        let mut bytes = bytes;
        if let Poll::Ready(result) = self.poll_flush(cx) {
            result?;
            while !bytes.is_empty() {
                match self.stream.poll_send(cx, bytes) {
                    Poll::Ready(Ok(0)) => return Err(ClientError::Closed),
                    Poll::Ready(Ok(written)) => {
                        self.sent_bytes += written as u64;
                        self.unflushed = true;
                        bytes = &bytes[written..];
                    }
                    Poll::Ready(Err(error)) => return Err(error.into()),
                    Poll::Pending => break,
                }
            }
        }
        self.outbox.extend_from_slice(bytes);
        if !self.is_behind() && self.unflushed {
            // What a TLS layer still holds goes out with the next poll.
            let _ = self.poll_flush(cx)?;
        }
        Ok(())
    }

    /// Writes what is waiting.
    #[inline]
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        if self.outbox.is_empty() && !self.unflushed {
            return Poll::Ready(Ok(()));
        }
        self.poll_send_all(cx)
    }

    fn poll_send_all(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        while self.sent < self.outbox.len() {
            let written = ready!(self.stream.poll_send(cx, &self.outbox[self.sent..]))?;
            if written == 0 {
                return Poll::Ready(Err(ClientError::Closed));
            }
            self.sent += written;
            self.sent_bytes += written as u64;
            self.unflushed = true;
        }
        self.sent = 0;
        self.outbox.clear();
        self.outbox.shrink_to(KEEP_OUTBOX);
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what is waiting and says goodbye.
    pub fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        ready!(self.poll_flush(cx))?;
        Ok(ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?).into()
    }

    /// Reads once into the inbox.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
    ) -> Poll<Result<(), ClientError>> {
        let read = ready!(self.stream.poll_receive(cx, scratch))?;
        let bytes = &scratch[..read];
        if bytes.is_empty() {
            return Poll::Ready(Err(ClientError::Closed));
        }
        self.received_bytes += bytes.len() as u64;
        self.inbox.extend_from_slice(bytes);
        Poll::Ready(Ok(()))
    }

    /// Drops the first `count` bytes of the inbox and gives memory back, unless as much is about to `come` again.
    pub fn consume(&mut self, count: usize, come: Coming) {
        if count >= self.inbox.len() {
            self.inbox.clear();
            self.inbox.shrink_to(match come {
                Coming::Statements => KEEP,
                Coming::CopyData => KEEP_IN_COPY,
            });
        } else if count > 0 {
            self.inbox.drain(..count);
        }
    }
}
