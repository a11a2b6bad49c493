//! The stream of a slot's changes, read at the pace of its user.
//!
//! Nothing is lost when a future of this type is dropped before it is ready: what was read is in the inbox, what is to be said in the outbox,
//! and both go on with the next call. Two duties towards the server are done here, whatever the user waits for: to say where the stream is before
//! the server takes this side for dead (`wal_sender_timeout`), and to answer when it asks. So a user that waits for something else
//! than the next change does that inside of [`ChangeStream::during`].

use std::future::poll_fn;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tokio::io::AsyncWrite;
use tokio::time::{Instant, timeout, timeout_at};

use super::connection::{Origin, ReplicationConnection};
use super::inbox::Inbox;
use super::{Refused, ReplicationError};
use crate::wire::replication::{
    Answering, CopyBoth, Decoder, Lsn, Message, StandbyStatus, Timestamp,
};
use crate::wire::socket::TokioSocket;
use crate::wire::stream::Stream;

/// The longest time between two words of ours, as of Postgres's own (`wal_receiver_status_interval`).
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// The shortest, for servers with a very short `wal_sender_timeout`.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(20);
/// Bytes of a status in its CopyData.
const STATUS_LENGTH: usize = 39;

/// What a stream bears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest message, bytes, and so the most memory that is held but for a read ahead of up to 1 MB. A row is one message.
    pub message: usize,
    /// A server that was asked for a sign of life and gave none for so long is taken for dead.
    pub patience: Duration,
}

impl Default for Limits {
    /// All that Postgres can send (`MaxAllocSize`), and the time of its own subscribers (`wal_receiver_timeout`).
    fn default() -> Limits {
        Limits {
            message: 1 << 30,
            patience: Duration::from_secs(60),
        }
    }
}

/// What comes next. Borrowed from the stream until it is asked again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event<'a> {
    Change {
        /// Where it is in the log; of a commit the place behind it, and 0 of what is not in the log, as descriptions of tables.
        at: Lsn,
        /// The server's clock when it was sent.
        clock: Timestamp,
        message: Message<'a>,
    },
    /// All before `end` has been sent. Comes at least every ten seconds. Who has made all that came before it safe may confirm `end`,
    /// and should: otherwise a server whose changes are not of this stream keeps its log for nothing.
    Keepalive { end: Lsn, clock: Timestamp },
}

/// Changes, one after the other.
#[derive(Debug)]
pub struct ChangeStream {
    stream: Stream<TokioSocket>,
    inbox: Inbox,
    outbox: Outbox,
    decoder: Decoder,
    origin: Origin,
    /// Behind the last byte that came.
    received: Lsn,
    confirmed: Lsn,
    interval: Duration,
    patience: Duration,
    /// When the next status is sent, unless it is asked for earlier.
    due: Instant,
    /// The server wants to hear from us.
    asked: bool,
    /// Since when we wait for a sign of life that we asked for.
    unanswered: Option<Instant>,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Streaming,
    /// The server has said CopyDone.
    Closing,
    /// It has ended the command.
    Ended,
    /// An error was given out.
    Broken,
}

/// What was found in the inbox.
enum Found {
    Change {
        at: Lsn,
        clock: Timestamp,
        payload: Range<usize>,
    },
    Keepalive {
        end: Lsn,
        clock: Timestamp,
    },
    End,
}

impl ChangeStream {
    pub(super) fn new(
        connection: ReplicationConnection,
        decoder: Decoder,
        from: Lsn,
        sender_timeout: Duration,
        limits: Limits,
    ) -> ChangeStream {
        let (stream, inbox, origin) = connection.into_parts(limits.message);
        let interval = match sender_timeout {
            // The server waits for ever.
            Duration::ZERO => STATUS_INTERVAL,
            limit => (limit / 4).clamp(SHORTEST_INTERVAL, STATUS_INTERVAL),
        };
        ChangeStream {
            stream,
            inbox,
            outbox: Outbox::default(),
            decoder,
            origin,
            received: from,
            // The server takes 0 for no word about it.
            confirmed: Lsn(0),
            interval,
            patience: limits.patience,
            // At once: the server learns where this side is, and says where it is itself.
            due: Instant::now(),
            asked: false,
            unanswered: None,
            phase: Phase::Streaming,
        }
    }

    /// Behind the last change that was received; what can be confirmed at most.
    pub fn received(&self) -> Lsn {
        self.received
    }

    /// What the server is told to be safe. 0 until something was confirmed here: that a stream starts at a place says nothing about it.
    pub fn confirmed(&self) -> Lsn {
        self.confirmed
    }

    /// Waits for the next change or keepalive. `None`: the server has ended the stream in good order, as it does when it is shut down.
    ///
    /// Cancel-safe. Changes that are not asked for stay with the server.
    pub async fn next(&mut self) -> Result<Option<Event<'_>>, ReplicationError> {
        let found = match self.find().await {
            Ok(found) => found,
            Err(error) => {
                self.phase = Phase::Broken;
                return Err(error);
            }
        };
        match found {
            Found::Change { at, clock, payload } => {
                match self.decoder.decode(self.inbox.body(payload)) {
                    Ok(message) => Ok(Some(Event::Change { at, clock, message })),
                    Err(error) => {
                        self.phase = Phase::Broken;
                        Err(ReplicationError::Change { at, error })
                    }
                }
            }
            Found::Keepalive { end, clock } => Ok(Some(Event::Keepalive { end, clock })),
            Found::End => Ok(None),
        }
    }

    /// All before `place` is safe, and the server need not keep it: the end of a commit that was applied, or of a keepalive behind
    /// it. Told to the server with the next status, at the latest after ten seconds; see [`report`](ChangeStream::report). What is
    /// confirmed already stays so.
    ///
    /// A server that shuts down waits until all that it sent is confirmed.
    pub fn confirm(&mut self, place: Lsn) -> Result<(), ReplicationError> {
        if place > self.received {
            return Err(ReplicationError::NeverReceived {
                confirmed: place,
                received: self.received,
            });
        }
        self.confirmed = self.confirmed.max(place);
        Ok(())
    }

    /// Tells the server now what is confirmed. Cancel-safe. An error when it does not listen any more.
    pub async fn report(&mut self) -> Result<(), ReplicationError> {
        if self.phase != Phase::Streaming {
            return Err(ReplicationError::Closed);
        }
        self.say(Answering::WhenConvenient);
        poll_fn(|cx| match self.outbox.poll_send(&mut self.stream, cx) {
            Poll::Ready(sent) => Poll::Ready(sent.map_err(ReplicationError::Io)),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Waits for something else, as for the target of the changes, and keeps the server patient meanwhile. What breaks here is told by
    /// the next call of [`next`](ChangeStream::next): the work is not given up for it.
    pub async fn during<F: Future>(&mut self, work: F) -> F::Output {
        let mut work = pin!(work);
        loop {
            if self.asked || Instant::now() >= self.due {
                self.say(Answering::WhenConvenient);
            }
            let both = poll_fn(|cx| {
                // A failure is seen again by whoever sends or reads next.
                let _ = self.outbox.poll_send(&mut self.stream, cx);
                work.as_mut().poll(cx)
            });
            if let Ok(done) = timeout_at(self.due, both).await {
                return done;
            }
        }
    }

    /// Ends the stream in good order: tells what is confirmed, and reads until the server has stopped, which in a large transaction can take a
    /// while. Then the connection takes commands again, but starts no second stream. What was not asked for is thrown away, and will be sent again as long as it was not confirmed.
    pub async fn finish(
        mut self,
        patience: Duration,
    ) -> Result<ReplicationConnection, ReplicationError> {
        let ending = async {
            match self.phase {
                Phase::Streaming => {
                    self.report().await?;
                    self.outbox.copy_done();
                }
                Phase::Closing | Phase::Ended => {}
                Phase::Broken => return Err(ReplicationError::Closed),
            }
            loop {
                while let Some(frame) = self.inbox.take()? {
                    match frame.kind {
                        b'Z' => return Ok(()),
                        b'E' => return Err(Refused::read(self.inbox.body(frame.body))),
                        // Data also behind its CopyDone: a transaction that it was in the middle of is sent to its end.
                        _ => {}
                    }
                }
                let read = poll_fn(|cx| {
                    if let Poll::Ready(Err(error)) = self.outbox.poll_send(&mut self.stream, cx) {
                        return Poll::Ready(Err(ReplicationError::Io(error)));
                    }
                    self.inbox.poll_fill(&mut self.stream, cx)
                });
                if read.await? == 0 {
                    return Err(ReplicationError::Closed);
                }
            }
        };
        timeout(patience, ending)
            .await
            .unwrap_or(Err(ReplicationError::Timeout))?;
        Ok(ReplicationConnection::from_parts(
            self.stream,
            self.inbox,
            self.origin,
        ))
    }

    /// What comes next, and what must be said meanwhile.
    async fn find(&mut self) -> Result<Found, ReplicationError> {
        match self.phase {
            Phase::Streaming | Phase::Closing => {}
            Phase::Ended => return Ok(Found::End),
            Phase::Broken => return Err(ReplicationError::Closed),
        }
        if self.asked || Instant::now() >= self.due {
            self.say(Answering::WhenConvenient);
        }
        if !self.outbox.is_empty() {
            poll_fn(|cx| Poll::Ready(self.send(cx))).await?;
        }
        loop {
            if let Some(found) = self.take()? {
                return Ok(found);
            }
            // Nothing is here, and a server that lives answers.
            if Instant::now() >= self.due {
                self.ask()?;
            }
            let due = self.due;
            match timeout_at(due, poll_fn(|cx| self.poll_more(cx))).await {
                Ok(more) => more?,
                Err(_) => continue,
            }
        }
    }

    /// The next thing in the inbox; `None`: more must be read.
    #[inline]
    fn take(&mut self) -> Result<Option<Found>, ReplicationError> {
        while let Some(frame) = self.inbox.take()? {
            let body = self.inbox.body(frame.body.clone());
            match (frame.kind, self.phase) {
                (b'd', Phase::Streaming) => {
                    match CopyBoth::decode(body).map_err(ReplicationError::Envelope)? {
                        CopyBoth::Data {
                            start,
                            end,
                            clock,
                            payload,
                        } => {
                            self.received = self.received.max(start).max(end);
                            return Ok(Some(Found::Change {
                                at: start,
                                clock,
                                payload: frame.body.end - payload.len()..frame.body.end,
                            }));
                        }
                        CopyBoth::Keepalive {
                            end,
                            clock,
                            answering,
                        } => {
                            self.received = self.received.max(end);
                            // The answer is sent by the next call, so that it tells what is confirmed until then.
                            self.asked |= answering == Answering::AtOnce;
                            return Ok(Some(Found::Keepalive { end, clock }));
                        }
                    }
                }
                (b'E', _) => return Err(Refused::read(body)),
                (b'c', Phase::Streaming) => {
                    self.outbox.copy_done();
                    self.phase = Phase::Closing;
                }
                // A server that is shut down says no CopyDone before it.
                (b'C', _) => {
                    self.phase = Phase::Ended;
                    return Ok(Some(Found::End));
                }
                // Notices, settings.
                (b'N' | b'S', _) => {}
                _ => return Err(ReplicationError::Protocol("a message out of turn")),
            }
        }
        Ok(None)
    }

    /// Reads once.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ReplicationError>> {
        self.send(cx)?;
        match self.inbox.poll_fill(&mut self.stream, cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0)) => Poll::Ready(Err(ReplicationError::Closed)),
            Poll::Ready(Ok(_)) => {
                self.unanswered = None;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }

    /// Sends what can be sent now.
    fn send(&mut self, cx: &mut Context<'_>) -> Result<(), ReplicationError> {
        match self.outbox.poll_send(&mut self.stream, cx) {
            Poll::Ready(Err(error)) => Err(ReplicationError::Io(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    /// Asks for a sign of life, unless one was asked for and did not come.
    fn ask(&mut self) -> Result<(), ReplicationError> {
        let now = Instant::now();
        let since = *self.unanswered.get_or_insert(now);
        if now.duration_since(since) >= self.patience {
            return Err(ReplicationError::Silent(self.patience));
        }
        self.say(Answering::AtOnce);
        Ok(())
    }

    fn say(&mut self, answering: Answering) {
        self.asked = false;
        self.due = Instant::now() + self.interval;
        if self.phase != Phase::Streaming {
            // Behind a CopyDone there is nothing to say.
            return;
        }
        let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        self.outbox.status(&StandbyStatus {
            written: self.received,
            flushed: self.confirmed,
            applied: self.confirmed,
            clock: Timestamp::from_unix(since_1970),
            answering,
        });
    }
}

/// What is to be sent: at most a status of which a part is gone, and the latest one.
#[derive(Debug, Default)]
struct Outbox {
    bytes: Vec<u8>,
    /// So many of them.
    sent: usize,
    /// Whether TLS may still hold something back.
    unflushed: bool,
}

impl Outbox {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.unflushed
    }

    /// Instead of one that has not begun to be sent.
    fn status(&mut self, status: &StandbyStatus) {
        let begun = self.sent.next_multiple_of(STATUS_LENGTH);
        self.bytes.truncate(begun);
        status.encode(&mut self.bytes);
        debug_assert_eq!(self.bytes.len(), begun + STATUS_LENGTH);
    }

    /// Behind all statuses: none follows.
    fn copy_done(&mut self) {
        self.bytes.extend_from_slice(&[b'c', 0, 0, 0, 4]);
    }

    fn poll_send<W: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        while self.sent < self.bytes.len() {
            match Pin::new(&mut *stream).poll_write(cx, &self.bytes[self.sent..]) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
                }
                Poll::Ready(Ok(sent)) => {
                    self.sent += sent;
                    self.unflushed = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        self.bytes.clear();
        self.sent = 0;
        if self.unflushed {
            match Pin::new(stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                other => return other,
            }
        }
        Poll::Ready(Ok(()))
    }
}
