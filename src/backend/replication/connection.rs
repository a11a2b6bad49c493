//! A replication connection that takes commands: it knows its server, makes and drops slots, and becomes a stream.

use std::future::poll_fn;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::command::{self, ServerMajor, SlotName, SlotRequest, StreamRequest, WhenInUse, literal};
use super::inbox::{Frame, Inbox};
use super::stream::{ChangeStream, Limits};
use super::{Refused, ReplicationError};
use crate::backend::connect::{Address, AnyThread, Login, connect};
use crate::wire::answer::TransactionStatus;
use crate::wire::message::{self, Cursor, ProtocolViolation};
use crate::wire::replication::{Decoder, Lsn};
use crate::wire::socket::TokioSocket;
use crate::wire::stream::Stream;
use crate::wire::timers::Timers;
use crate::wire::tls::ServerEncryption;

/// The longest message of an answer to a command, bytes. A text of a query's result can be that long.
const COMMAND_LIMIT: usize = 16 * 1024 * 1024;
/// Most bytes of all rows of an answer.
const ANSWER_LIMIT: usize = 64 * 1024 * 1024;
/// The first version with pgoutput.
const OLDEST: ServerMajor = ServerMajor(10);

/// How values of a stream are written as text, whatever the role's settings are: as Postgres's own subscribers set it
/// (`libpqrcv_connect`). Names are written with their schema, and no time limit of the role's ends a command.
const SETTINGS: [(&str, &str); 6] = [
    ("replication", "database"),
    ("datestyle", "ISO"),
    ("intervalstyle", "postgres"),
    ("extra_float_digits", "3"),
    ("search_path", ""),
    ("statement_timeout", "0"),
];

/// A connection of a `replication=database` session. Commands are waited for without a limit, because to make a slot can take as long
/// as the longest transaction that runs; one that was given up makes the connection unusable.
#[derive(Debug)]
pub struct ReplicationConnection {
    stream: Stream<TokioSocket>,
    inbox: Inbox,
    server: ServerMajor,
    process_id: i32,
    turn: Turn,
    streams: Streams,
}

/// Whether it was a stream. Once its CopyDone was sent, a server process remembers that for good, and ends another logical stream as soon as
/// it has begun (`streamingDoneSending`, which only `StartReplication` for physical replication sets back).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Streams {
    None,
    Ended,
}

/// Whose turn it is to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Ours,
    /// It has not said all of an answer.
    Server,
}

/// What a server is (IDENTIFY_SYSTEM).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// The same on all servers that replicate each other's whole log, different on all others.
    pub identifier: u64,
    pub timeline: u32,
    /// What is written and safe on its disk ends here.
    pub flushed: Lsn,
    pub database: Option<String>,
}

/// A slot that was just made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSlot {
    /// Transactions that commit behind this place are in the stream, and no others.
    pub start: Lsn,
    /// With [`Snapshot::Export`](super::Snapshot::Export): what SET TRANSACTION SNAPSHOT takes.
    pub snapshot: Option<String>,
}

/// A slot as the server sees it (`pg_replication_slots`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotState {
    /// The server process that reads it now.
    pub active: Option<i32>,
    /// The log is kept from here on.
    pub restart: Option<Lsn>,
    /// What was confirmed.
    pub confirmed: Option<Lsn>,
    /// `None` before Postgres 13, and when nothing is kept.
    pub wal: Option<WalStatus>,
    /// Bytes of log from `restart` to the end.
    pub retained: Option<u64>,
}

/// What a slot's log is like (`wal_status`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalStatus {
    /// Within `max_wal_size`.
    Reserved,
    /// More than that.
    Extended,
    /// More than `max_slot_wal_keep_size`: what is missing next will be gone at the next checkpoint.
    Unreserved,
    /// Something is gone, and the slot is of no use any more.
    Lost,
}

/// A row of an answer, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row(Vec<Option<String>>);

impl Row {
    /// A column from 0. `None`: NULL, or no such column.
    pub fn get(&self, column: usize) -> Option<&str> {
        self.0.get(column)?.as_deref()
    }

    fn parse<T: std::str::FromStr>(&self, column: usize) -> Result<Option<T>, ReplicationError> {
        let parsed = self.get(column).map(str::parse).transpose();
        parsed.map_err(|_| ReplicationError::Protocol("an answer with a value of another type"))
    }

    fn need<T: std::str::FromStr>(&self, column: usize) -> Result<T, ReplicationError> {
        self.parse(column)?
            .ok_or(ReplicationError::Protocol("an answer without a value"))
    }
}

/// What a command was answered.
#[derive(Debug)]
enum Answer {
    Rows(Vec<Row>),
    /// START_REPLICATION has started.
    CopyBoth,
}

impl ReplicationConnection {
    /// Connects and logs in within `timeout`. The role needs REPLICATION, and the server `wal_level = logical` for slots.
    pub async fn open(
        address: &Address,
        login: &Login,
        encryption: &ServerEncryption,
        timeout: Duration,
    ) -> Result<ReplicationConnection, ReplicationError> {
        let mut login = login.clone();
        let settings = SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned()));
        login.parameters.extend(settings);
        let timers = Timers::here();
        let connected = connect(address, &login, encryption, &AnyThread, &timers, timeout).await?;
        let version = connected
            .parameters
            .iter()
            .find(|(name, _)| name == "server_version")
            .and_then(|(_, version)| ServerMajor::parse(version))
            .ok_or(ReplicationError::Protocol("a server without a version"))?;
        version.needs(OLDEST, "logical replication")?;
        Ok(ReplicationConnection {
            stream: connected.stream,
            inbox: Inbox::new(COMMAND_LIMIT),
            server: version,
            process_id: connected.process_id,
            turn: Turn::Ours,
            streams: Streams::None,
        })
    }

    pub fn server(&self) -> ServerMajor {
        self.server
    }

    /// The server process, as `pg_stat_replication.pid` has it.
    pub fn process_id(&self) -> i32 {
        self.process_id
    }

    /// IDENTIFY_SYSTEM.
    pub async fn identify(&mut self) -> Result<System, ReplicationError> {
        let row = self.one_row("IDENTIFY_SYSTEM").await?;
        Ok(System {
            identifier: row.need(0)?,
            timeline: row.need(1)?,
            flushed: row.need(2)?,
            database: row.get(3).map(str::to_owned),
        })
    }

    /// CREATE_REPLICATION_SLOT. Waits for the end of every transaction that runs now.
    ///
    /// One that was given up may have made the slot all the same.
    pub async fn create_slot(&mut self, slot: &SlotRequest) -> Result<NewSlot, ReplicationError> {
        let text = slot.text(self.server)?;
        let row = self.one_row(&text).await?;
        Ok(NewSlot {
            start: row.need(1)?,
            snapshot: row.get(2).map(str::to_owned),
        })
    }

    /// DROP_REPLICATION_SLOT. SQLSTATE 42704: there is none.
    pub async fn drop_slot(
        &mut self,
        name: &SlotName,
        in_use: WhenInUse,
    ) -> Result<(), ReplicationError> {
        let text = command::drop_slot(name, in_use);
        self.query(&text).await.map(drop)
    }

    /// A logical slot of this name; `None`: there is none.
    pub async fn slot(&mut self, name: &SlotName) -> Result<Option<SlotState>, ReplicationError> {
        let wal_status = match self.server {
            ServerMajor(0..13) => "NULL",
            _ => "s.wal_status",
        };
        let sql = format!(
            "SELECT s.active_pid, s.restart_lsn, s.confirmed_flush_lsn, {wal_status},
                pg_catalog.trunc(pg_catalog.pg_wal_lsn_diff(
                    CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
                         ELSE pg_catalog.pg_current_wal_lsn() END, s.restart_lsn))
             FROM pg_catalog.pg_replication_slots s WHERE s.slot_type = 'logical' AND s.slot_name = {}",
            literal(name.as_str())
        );
        let rows = self.query(&sql).await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        Ok(Some(SlotState {
            active: row.parse(0)?,
            restart: row.parse(1)?,
            confirmed: row.parse(2)?,
            wal: match row.get(3) {
                None => None,
                Some("reserved") => Some(WalStatus::Reserved),
                Some("extended") => Some(WalStatus::Extended),
                Some("unreserved") => Some(WalStatus::Unreserved),
                Some("lost") => Some(WalStatus::Lost),
                Some(_) => {
                    return Err(ReplicationError::Protocol("a WAL status of another name"));
                }
            },
            // Behind the end of a replica's log, as far as it has replayed.
            retained: row
                .parse::<i64>(4)?
                .map(|bytes| bytes.max(0).cast_unsigned()),
        }))
    }

    /// SQL by the simple protocol; the rows of all its statements. For a transaction around [`Snapshot::Use`](super::Snapshot::Use),
    /// and for small questions: the answer may have some megabytes. COPY is not supported.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Row>, ReplicationError> {
        match self.exchange(sql).await? {
            Answer::Rows(rows) => Ok(rows),
            Answer::CopyBoth => Err(ReplicationError::Protocol(
                "a stream as the answer to a question",
            )),
        }
    }

    /// START_REPLICATION. A slot in use is SQLSTATE 55006: after a broken connection it is that until the server has noticed.
    ///
    /// Refused when the server's log ends before the place to begin at: Postgres would wait there and leave out what is written until then,
    /// although a server that has lost a part of its log writes other changes at the same places.
    pub async fn start(
        mut self,
        request: &StreamRequest,
        limits: Limits,
    ) -> Result<ChangeStream, ReplicationError> {
        if self.streams == Streams::Ended {
            return Err(ReplicationError::Spent);
        }
        let (text, version) = request.text(self.server)?;
        let System { flushed, .. } = self.identify().await?;
        if request.from > flushed {
            return Err(ReplicationError::LogLost {
                from: request.from,
                flushed,
            });
        }
        // In milliseconds, 0: never.
        let timeout = self
            .one_row("SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'")
            .await?
            .need(0)?;
        match self.exchange(&text).await? {
            Answer::CopyBoth => {}
            Answer::Rows(_) => {
                return Err(ReplicationError::Protocol("no stream was started"));
            }
        }
        let decoder = Decoder::new(version, request.streaming);
        let sender_timeout = Duration::from_millis(timeout);
        Ok(ChangeStream::new(
            self,
            decoder,
            request.from,
            sender_timeout,
            limits,
        ))
    }

    async fn one_row(&mut self, text: &str) -> Result<Row, ReplicationError> {
        let row = self.query(text).await?.into_iter().next();
        row.ok_or(ReplicationError::Protocol("an answer without a row"))
    }

    /// Sends a command and reads all of its answer. After an error of the server's the next command can be sent.
    async fn exchange(&mut self, text: &str) -> Result<Answer, ReplicationError> {
        if self.turn == Turn::Server {
            return Err(ReplicationError::Abandoned);
        }
        if text.contains('\0') {
            return Err(ReplicationError::Nul);
        }
        let mut query = Vec::new();
        message::encode_query(text.as_bytes(), &mut query);
        self.turn = Turn::Server;
        self.stream.write_all(&query).await?;
        self.stream.flush().await?;
        let (mut rows, mut bytes, mut refused) = (Vec::new(), 0, None);
        loop {
            let Frame { kind, body } = self.read().await?;
            let body = self.inbox.body(body);
            match kind {
                b'D' => {
                    bytes += body.len();
                    if bytes > ANSWER_LIMIT {
                        return Err(ReplicationError::TooLarge {
                            length: bytes,
                            limit: ANSWER_LIMIT,
                        });
                    }
                    rows.push(
                        row(body)
                            .map_err(|_| ReplicationError::Protocol("a row that cannot be read"))?,
                    );
                }
                b'E' => refused = Some(Refused::read(body)),
                b'W' => return Ok(Answer::CopyBoth),
                b'Z' => {
                    match body {
                        [status] if TransactionStatus::from_byte(*status).is_some() => {}
                        _ => return Err(ReplicationError::Protocol("a status of another kind")),
                    }
                    self.turn = Turn::Ours;
                    return refused.map_or(Ok(Answer::Rows(rows)), Err);
                }
                // Descriptions, ends of statements, notices, settings, notifications.
                b'T' | b'C' | b'I' | b'N' | b'S' | b'A' => {}
                _ => return Err(ReplicationError::Protocol("a message out of turn")),
            }
        }
    }

    async fn read(&mut self) -> Result<Frame, ReplicationError> {
        loop {
            if let Some(frame) = self.inbox.take()? {
                return Ok(frame);
            }
            let (inbox, stream) = (&mut self.inbox, &mut self.stream);
            if poll_fn(|cx| inbox.poll_fill(stream, cx)).await? == 0 {
                return Err(ReplicationError::Closed);
            }
        }
    }

    /// To be a stream with messages of up to so many bytes.
    pub(super) fn into_parts(self, limit: usize) -> (Stream<TokioSocket>, Inbox, Origin) {
        let mut inbox = self.inbox;
        inbox.set_limit(limit);
        let origin = Origin {
            server: self.server,
            process_id: self.process_id,
        };
        (self.stream, inbox, origin)
    }

    /// The reverse: a stream has ended, and the server waits for a command.
    pub(super) fn from_parts(
        stream: Stream<TokioSocket>,
        mut inbox: Inbox,
        origin: Origin,
    ) -> ReplicationConnection {
        inbox.set_limit(COMMAND_LIMIT);
        ReplicationConnection {
            stream,
            inbox,
            server: origin.server,
            process_id: origin.process_id,
            turn: Turn::Ours,
            streams: Streams::Ended,
        }
    }
}

/// What a stream remembers of its connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub server: ServerMajor,
    pub process_id: i32,
}

fn row(body: &[u8]) -> Result<Row, ProtocolViolation> {
    let mut cursor = Cursor::new(body);
    let count = match cursor.take(2)? {
        &[high, low] => u16::from_be_bytes([high, low]),
        _ => return Err(ProtocolViolation::Truncated),
    };
    let mut values = Vec::new();
    for _ in 0..count {
        values.push(match cursor.int32()? {
            -1 => None,
            length => {
                let length =
                    usize::try_from(length).map_err(|_| ProtocolViolation::NegativeLength)?;
                Some(String::from_utf8_lossy(cursor.take(length)?).into_owned())
            }
        });
    }
    cursor.end()?;
    Ok(Row(values))
}
