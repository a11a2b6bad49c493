//! The relay: bytes between a client and the server connection that works for it, in both directions at once.
//!
//! Runs of messages that nobody needs to read are written to the client from the buffer they were read into. A client that
//! does not read stops the reading from its server; a server that does not read stops the reading from its client.

use std::task::{Context, Poll};

use super::client::{Client, ClientError};
use crate::backend::pipeline::Event;
use crate::backend::server::{Server, ServerError};

/// Why the relay came back.
#[derive(Debug)]
pub enum Turn {
    /// The client has sent something.
    Client,
    /// Something happened that the session must know of: read the events.
    Server,
}

/// Which side broke.
#[derive(Debug)]
pub enum Broken {
    Client(ClientError),
    Server(ServerError),
    /// A connection that the session keeps, while it was not working.
    Kept(ServerError),
}

/// Whether the client's bytes are wanted now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    Wanted,
    /// Enough is waiting already.
    Enough,
}

/// Moves bytes until one side needs the session's attention.
pub fn poll(
    cx: &mut Context<'_>,
    client: &mut Client,
    server: Option<&mut Server>,
    reading: Reading,
    scratch: &mut [u8],
    events: &mut Vec<Event>,
) -> Poll<Result<Turn, Broken>> {
    if let Some(server) = server {
        server.take_due(&mut client.outbox, events);
        loop {
            if let Poll::Ready(Err(error)) = server.poll_flush(cx) {
                return Poll::Ready(Err(Broken::Server(error)));
            }
            if let Poll::Ready(Err(error)) = client.poll_flush(cx) {
                return Poll::Ready(Err(Broken::Client(error)));
            }
            if client.is_behind() {
                break;
            }
            match server.poll_read(cx, scratch, &mut client.outbox, events) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::Server(error))),
                Poll::Ready(Ok(run)) => {
                    if let Err(error) = client.poll_send(cx, &scratch[run]) {
                        return Poll::Ready(Err(Broken::Client(error)));
                    }
                }
            }
            if !events.is_empty() {
                return Poll::Ready(Ok(Turn::Server));
            }
        }
        if !events.is_empty() {
            return Poll::Ready(Ok(Turn::Server));
        }
    } else if let Poll::Ready(Err(error)) = client.poll_flush(cx) {
        return Poll::Ready(Err(Broken::Client(error)));
    }
    if reading == Reading::Enough {
        return Poll::Pending;
    }
    match client.poll_fill(cx, scratch) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Ok(())) => Poll::Ready(Ok(Turn::Client)),
        Poll::Ready(Err(error)) => Poll::Ready(Err(Broken::Client(error))),
    }
}
