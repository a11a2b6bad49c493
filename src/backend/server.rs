//! One connection to a server: its socket, what it still owes, and what it remembers of earlier clients.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::AsyncWrite;

use super::again;
use super::cancel::Canceller;
use super::connect::Connected;
use super::pipeline::{Copying, Event, Fate, Pipeline, Request, Unexpected, Verdict, is_stale};
use super::pool::{Seat, Spec};
use super::prepared::{Prepared, StatementId};
use super::settings::{Reported, Settings};
use super::undone::Undone;
use crate::sharding::ShardId;
use crate::wire::answer::{ErrorFields, TransactionStatus};
use crate::wire::frame::HEADER;
use crate::wire::message;
use crate::wire::stream::Stream;

/// read_only_sql_transaction
const READ_ONLY: &str = "25006";
/// admin_shutdown.
const SHUTDOWN: &str = "57P01";
/// The function of Postgres's that waits for a client's bytes, and ends its process when the postmaster is no more.
const READS: &[u8] = b"secure_read";

/// Whether these last words come from a server that waited for the rest of what it is asked. One that somebody ended says so in another function's name.
fn died_reading(words: &[u8]) -> bool {
    ErrorFields::parse(words)
        .is_some_and(|fields| fields.sqlstate == SHUTDOWN && fields.routine == READS)
}

/// The most of a split message that is kept to be read whole; longer ones are passed on unread.
const CARRY_LIMIT: usize = 16 * 1024;

/// The most that is kept of what was sent last.
const LAST_LIMIT: usize = 16 * 1024;

/// Bytes that were sent and still stand at the front of the outbox, above which they are dropped.
const SENT_LIMIT: usize = 256 * 1024;

/// What the outbox may keep when it is empty, but for COPY, whose data fill it again and again.
const KEEP: usize = 16 * 1024;

/// A server connection broke, or said something that makes it unusable.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("the server closed the connection")]
    Closed,
    #[error("the connection to the server broke: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Unexpected(#[from] Unexpected),
    #[error("the server sent a message of impossible length {0}")]
    Length(u32),
    #[error("no answer in time")]
    Timeout,
    #[error("its node is no longer the one to use")]
    Severed,
    /// It was taken for the primary, and has refused to write; with the body of its ErrorResponse. Nothing of the unit of work was done.
    #[error("the server takes no writes")]
    ReadOnly(Vec<u8>),
}

/// What a client is shown as its transaction status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shown {
    /// The server's own.
    #[default]
    Own,
    /// The client has begun a transaction that this server does not know of: `T`, or `E` after an error.
    Begun,
    /// Likewise, and it has failed already: `E`.
    Failed,
}

/// For how long a client has the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenure {
    Transaction,
    /// It holds state of the client's, which would be lost with it.
    Session,
}

/// One connection to a server. Dropping it closes it.
pub struct Server {
    stream: Stream,
    pub canceller: Rc<Canceller>,
    pub shard: ShardId,
    pub seat: Seat,
    /// Its node's place in the shard.
    pub node: usize,
    severed: Rc<Cell<bool>>,
    pub tenure: Tenure,
    /// Bytes on their way to the server, from `sent`.
    outbox: Vec<u8>,
    sent: usize,
    /// What was sent last, while that is short: it may have to be sent again.
    last: Vec<u8>,
    since_ready: SinceReady,
    /// Written, but perhaps still inside the TLS layer.
    unflushed: bool,
    pub pipeline: Pipeline,
    scan: Scan,
    /// The transaction status after the last ReadyForQuery.
    pub status: TransactionStatus,
    pub shown: Shown,
    /// What its session variables are set to.
    pub settings: Settings,
    /// What it has reported by ParameterStatus.
    pub reported: Reported,
    pub prepared: Prepared,
    /// Whose text the unnamed statement has.
    pub unnamed: Option<StatementId>,
    pub connected_at: Instant,
    pub expires_at: Option<Instant>,
    pub used_at: Instant,
}

/// What has happened since the server was last ready.
#[derive(Clone, Copy, Debug, Default)]
struct SinceReady {
    /// How often all that was on its way has left.
    sent: u32,
    /// It has said something.
    heard: bool,
    /// It ended before it read the last message of what it is asked: nothing of that is committed, nor will it be.
    unread: bool,
}

/// Where the reading stands between two reads of the socket.
#[derive(Debug, Default)]
struct Scan {
    /// Bytes of the current message that are still to come, and whether they are the client's.
    rest: usize,
    forwarding: bool,
    /// The beginning of a message that must be seen whole.
    carry: Vec<u8>,
    /// An error was seen since the last ReadyForQuery.
    failed: bool,
}

impl Server {
    pub fn new(
        connected: Connected,
        spec: &Spec,
        severed: Rc<Cell<bool>>,
        now: Instant,
        expires_at: Option<Instant>,
    ) -> Server {
        let reported = connected
            .parameters
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        Server {
            stream: connected.stream,
            canceller: Canceller::new(
                spec.target.clone(),
                connected.peer,
                connected.process_id,
                connected.secret_key,
            ),
            shard: spec.shard,
            seat: spec.seat,
            node: spec.node,
            severed,
            tenure: Tenure::Transaction,
            outbox: Vec::new(),
            sent: 0,
            last: Vec::new(),
            since_ready: SinceReady::default(),
            unflushed: false,
            pipeline: Pipeline::default(),
            scan: Scan::default(),
            status: TransactionStatus::Idle,
            shown: Shown::Own,
            settings: Settings::default(),
            reported,
            prepared: Prepared::default(),
            unnamed: None,
            connected_at: now,
            expires_at,
            used_at: now,
        }
    }

    /// Puts bytes on their way; they leave with the next [`Server::poll_flush`].
    pub fn push(&mut self, bytes: &[u8]) {
        if self.sent >= SENT_LIMIT {
            // A stream that never quite drains must not keep all that it has sent.
            self.outbox.drain(..self.sent);
            self.sent = 0;
        }
        self.outbox.extend_from_slice(bytes);
    }

    /// The buffer of bytes on their way, to be appended to.
    pub fn outbox(&mut self) -> &mut Vec<u8> {
        &mut self.outbox
    }

    /// Bytes that could not be sent yet.
    pub fn backlog(&self) -> usize {
        self.outbox.len() - self.sent
    }

    /// Sends what is on its way.
    #[inline]
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ServerError>> {
        if self.severed.get() {
            return Poll::Ready(Err(ServerError::Severed));
        }
        if self.outbox.is_empty() && !self.unflushed {
            return Poll::Ready(Ok(()));
        }
        self.poll_send_all(cx)
    }

    fn poll_send_all(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ServerError>> {
        while self.sent < self.outbox.len() {
            let written = ready!(self.stream.poll_send(cx, &self.outbox[self.sent..]))?;
            if written == 0 {
                return Poll::Ready(Err(ServerError::Closed));
            }
            self.sent += written;
        }
        if self.sent > 0 {
            self.sent = 0;
            self.since_ready.sent += 1;
            if self.outbox.len() <= LAST_LIMIT {
                std::mem::swap(&mut self.outbox, &mut self.last);
            } else {
                self.last.clear();
            }
            self.outbox.clear();
            if self.pipeline.copying() != Copying::In {
                self.outbox.shrink_to(KEEP);
            }
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes the answers of our own that are due without another word from the server.
    pub fn take_due(&mut self, out: &mut Vec<u8>, events: &mut Vec<Event>) {
        if self.scan.rest == 0 {
            while let Some(bytes) = self.pipeline.due(events) {
                out.extend_from_slice(&bytes);
            }
        }
    }

    /// Reads once. What is the client's is appended to `out` except for its last run, whose place in `scratch` is returned
    /// so that it can be written from there without a copy.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        out: &mut Vec<u8>,
        events: &mut Vec<Event>,
    ) -> Poll<Result<Range<usize>, ServerError>> {
        let carried = self.scan.carry.len();
        if carried > 0 {
            scratch[..carried].copy_from_slice(&self.scan.carry);
        }
        let read = ready!(self.stream.poll_receive(cx, &mut scratch[carried..]))?;
        if read == 0 {
            return Poll::Ready(Err(ServerError::Closed));
        }
        self.scan.carry.clear();
        Poll::Ready(self.scan_chunk(&mut scratch[..carried + read], out, events))
    }

    fn scan_chunk(
        &mut self,
        chunk: &mut [u8],
        out: &mut Vec<u8>,
        events: &mut Vec<Event>,
    ) -> Result<Range<usize>, ServerError> {
        let mut run = 0..0;
        let mut at = self.scan.rest.min(chunk.len());
        if at > 0 {
            self.scan.rest -= at;
            run = if self.scan.forwarding { 0..at } else { at..at };
        }
        while at < chunk.len() {
            let (end, rest) = self.pipeline.step_over(chunk, at);
            if end > at {
                self.since_ready.heard = true;
                (at, run.end) = (end, end);
                self.scan.rest = rest;
                self.scan.forwarding = true;
                continue;
            }
            let left = &chunk[at..];
            if left.len() < HEADER {
                self.scan.carry.extend_from_slice(left);
                break;
            }
            let tag = left[0];
            let length = u32::from_be_bytes([left[1], left[2], left[3], left[4]]);
            if length < 4 {
                return Err(ServerError::Length(length));
            }
            let whole = 1 + length as usize;
            let here = whole.min(left.len());
            if here < whole && self.pipeline.inspects(tag) && whole <= CARRY_LIMIT {
                self.scan.carry.extend_from_slice(left);
                break;
            }
            while let Some(bytes) = self.pipeline.due(events) {
                out.extend_from_slice(&chunk[run.clone()]);
                out.extend_from_slice(&bytes);
                run = at..at;
            }
            if tag == b'E' {
                self.look_for_stale(&chunk[at + HEADER..at + here]);
                if self.is_no_primary(&chunk[at + HEADER..at + here]) {
                    return Err(ServerError::ReadOnly(
                        chunk[at + HEADER..at + here].to_vec(),
                    ));
                }
            }
            let before = events.len();
            let mut verdict = self
                .pipeline
                .step(tag, &chunk[at + HEADER..at + here], events)?;
            // What is said to everybody is no answer, nor that a replica goes. A primary may say so because somebody wants the statement to end.
            let unasked = match events.get(before) {
                Some(Event::Fatal(words)) => {
                    self.since_ready.unread = died_reading(words);
                    self.since_ready.unread || self.seat != Seat::Primary
                }
                _ => matches!(tag, b'N' | b'A' | b'S'),
            };
            self.since_ready.heard |= !unasked;
            if tag == b'E'
                && verdict != Verdict::Swallow
                && let Some(error) = self.canceller.instead_of(&chunk[at + HEADER..at + here])
            {
                verdict = Verdict::Instead(error);
            }
            self.notice(tag, at, here, chunk);
            let end = at + here;
            // The run always ends where this message begins.
            match verdict {
                Verdict::Forward => run.end = end,
                Verdict::Swallow => {
                    out.extend_from_slice(&chunk[run]);
                    run = end..end;
                }
                Verdict::Instead(ref bytes) => {
                    out.extend_from_slice(&chunk[run]);
                    out.extend_from_slice(bytes);
                    run = end..end;
                }
            }
            self.scan.rest = whole - here;
            self.scan.forwarding = matches!(verdict, Verdict::Forward);
            at = end;
        }
        if self.scan.rest == 0 {
            while let Some(bytes) = self.pipeline.due(events) {
                out.extend_from_slice(&chunk[run.clone()]);
                out.extend_from_slice(&bytes);
                run = run.end..run.end;
            }
        }
        Ok(run)
    }

    /// When the server says that a prepared statement is stale: what was sent last may be sent again.
    fn look_for_stale(&mut self, error: &[u8]) {
        if self.status == TransactionStatus::Idle
            && is_stale(error)
            && self.backlog() == 0
            && again::first_use(&self.last).is_some()
        {
            self.pipeline.may_ask_again();
        }
    }

    /// The first words to a unit of work outside a transaction block are that the server takes no writes, though nobody has set it so here.
    fn is_no_primary(&self, error: &[u8]) -> bool {
        self.seat == Seat::Primary
            && self.tenure == Tenure::Transaction
            && self.status == TransactionStatus::Idle
            && self.pipeline.is_unanswered()
            && ErrorFields::parse(error).is_some_and(|fields| fields.sqlstate == READ_ONLY)
            && self.settings.get("default_transaction_read_only").is_none()
    }

    /// What was sent so far was of ours, and is answered: the client's unit of work begins now.
    pub fn begins(&mut self) {
        if self.pipeline.is_empty() && self.backlog() == 0 {
            self.since_ready = SinceReady::default();
        }
    }

    /// What was sent last, when it was short.
    pub fn last_sent(&self) -> &[u8] {
        &self.last
    }

    /// This connection, which is lost, ended before its server had read the end of what it was asked.
    pub fn is_unread(&self) -> bool {
        self.since_ready.unread
    }

    /// What this connection, which is lost, was asked and has not said a word to.
    pub fn take_undone(&mut self) -> Option<Undone> {
        let bytes = match self.since_ready {
            SinceReady { heard: true, .. } => return None,
            SinceReady { sent: 0, .. } if self.sent < SENT_LIMIT => &self.outbox,
            SinceReady { sent: 1, .. } if self.backlog() == 0 => &self.last,
            _ => return None,
        };
        match Undone::of(bytes.clone(), std::mem::take(&mut self.pipeline)) {
            Ok(undone) => Some(undone),
            Err(owed) => {
                self.pipeline = owed;
                None
            }
        }
    }

    /// What a message says about this connection itself.
    fn notice(&mut self, tag: u8, at: usize, here: usize, chunk: &mut [u8]) {
        let body = &mut chunk[at + HEADER..at + here];
        match tag {
            b'Z' => {
                if let Some(status) = body.first().copied().and_then(TransactionStatus::from_byte) {
                    self.status = status;
                    match (self.shown, self.scan.failed) {
                        (Shown::Own, _) => {}
                        (Shown::Begun, false) => body[0] = TransactionStatus::InTransaction.byte(),
                        (Shown::Begun, true) | (Shown::Failed, _) => {
                            body[0] = TransactionStatus::Failed.byte()
                        }
                    }
                }
                self.scan.failed = false;
                self.since_ready = SinceReady::default();
            }
            b'E' => self.scan.failed = true,
            b'S' => {
                let mut parts = body.split(|byte| *byte == 0);
                if let (Some(name), Some(value)) = (parts.next(), parts.next())
                    && let (Ok(name), Ok(value)) =
                        (std::str::from_utf8(name), std::str::from_utf8(value))
                {
                    self.reported.set(name, value);
                }
            }
            _ => {}
        }
    }

    /// Nothing is owed, nothing is half read or half sent.
    pub fn is_settled(&self) -> bool {
        self.pipeline.is_empty()
            && self.scan.rest == 0
            && self.scan.carry.is_empty()
            && self.backlog() == 0
    }

    /// The client has been given a part of a message.
    pub fn is_mid_message(&self) -> bool {
        self.scan.rest > 0 && self.scan.forwarding
    }

    /// Looks whether the connection is still there, without waiting.
    pub fn poke(&mut self) -> bool {
        let mut scratch = [0; 512];
        let (mut out, mut events) = (Vec::new(), Vec::new());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        loop {
            match self.poll_read(&mut cx, &mut scratch, &mut out, &mut events) {
                Poll::Pending => return self.is_settled(),
                Poll::Ready(Ok(_)) if events.is_empty() => {}
                Poll::Ready(_) => return false,
            }
        }
    }

    /// Waits for the answers to what nobody wants to hear of, like BEGIN.
    pub async fn come_to_rest(&mut self, scratch: &RefCell<Box<[u8]>>) -> Result<(), ServerError> {
        let (mut unwanted, mut events) = (Vec::new(), Vec::new());
        std::future::poll_fn(|cx| {
            while !self.is_settled() {
                if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
                    return Poll::Ready(Err(error));
                }
                let mut scratch = scratch.borrow_mut();
                ready!(self.poll_read(cx, &mut scratch, &mut unwanted, &mut events))?;
                unwanted.clear();
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Runs statements of our own to their end and gives the ErrorResponse body if there was one.
    pub async fn run(
        &mut self,
        sql: &str,
        scratch: &RefCell<Box<[u8]>>,
    ) -> Result<Result<(), Vec<u8>>, ServerError> {
        self.queue(sql);
        self.heard(scratch).await
    }

    /// Runs statements of our own to their end; everything the server says is appended to `out`.
    pub async fn capture(
        &mut self,
        sql: &str,
        scratch: &RefCell<Box<[u8]>>,
        out: &mut Vec<u8>,
    ) -> Result<(), ServerError> {
        self.queue(sql);
        self.hear(scratch, out).await
    }

    /// Statements of our own, to be sent with what is sent next.
    pub fn queue(&mut self, sql: &str) {
        message::encode_query(sql.as_bytes(), &mut self.outbox);
        self.unnamed = None;
        self.pipeline.expect(Request::Query, Fate::Forward, None);
    }

    /// Statements of our own, which the operating system has when this returns.
    pub async fn send(&mut self, sql: &str) -> Result<(), ServerError> {
        self.queue(sql);
        std::future::poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Waits for the end of statements of our own and gives the ErrorResponse body if there was one.
    pub async fn heard(
        &mut self,
        scratch: &RefCell<Box<[u8]>>,
    ) -> Result<Result<(), Vec<u8>>, ServerError> {
        let mut out = Vec::new();
        self.hear(scratch, &mut out).await?;
        let mut rest = &out[..];
        while rest.len() >= HEADER {
            let length = u32::from_be_bytes([rest[1], rest[2], rest[3], rest[4]]) as usize;
            let end = (1 + length).min(rest.len());
            if rest[0] == b'E' {
                return Ok(Err(rest[HEADER..end].to_vec()));
            }
            rest = &rest[end..];
        }
        Ok(Ok(()))
    }

    /// Waits for the end of statements of our own; everything the server says is appended to `out`.
    pub async fn hear(
        &mut self,
        scratch: &RefCell<Box<[u8]>>,
        out: &mut Vec<u8>,
    ) -> Result<(), ServerError> {
        let mut events = Vec::new();
        std::future::poll_fn(|cx| {
            loop {
                if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
                    return Poll::Ready(Err(error));
                }
                let mut scratch = scratch.borrow_mut();
                let run = ready!(self.poll_read(cx, &mut scratch, out, &mut events))?;
                out.extend_from_slice(&scratch[run]);
                if self.pipeline.is_empty() {
                    return Poll::Ready(Ok(()));
                }
            }
        })
        .await
    }
}
