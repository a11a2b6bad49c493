//! Slots and streams of changes, from real servers.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_postgres::Client;
use trunkline::backend::connect::{Address, Login};
use trunkline::backend::replication::{
    ChangeStream, Event, Failover, Lifetime, Limits, Logical, NewSlot, PublicationName,
    ReplicationConnection, ReplicationError, SlotName, SlotRequest, Snapshot, StreamRequest,
    TwoPhase, WalStatus, WhenInUse, publication,
};
use trunkline::cli::local::{Cluster, Server, StopMode};
use trunkline::wire::message::Format;
use trunkline::wire::replication::{
    Emission, Identity, KeyPart, Lsn, Message, RelationId, Row, Scope, Segment, Streaming, Value,
    Xid,
};
use trunkline::wire::tls::ServerEncryption;

use crate::servers::{DEADLINE, connect, own_cluster};

/// A server that these tests share. To make a slot waits for every transaction of a server, so it is not the one of other tests.
fn server() -> &'static Server {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    &CLUSTER.get_or_init(|| own_cluster(1, 0)).shards()[0].primary
}

/// A database of a server, with what is needed to stream from it.
struct Source<'a> {
    server: &'a Server,
    database: String,
    sql: Client,
    /// Of the role that streams.
    settings: Vec<(String, String)>,
}

impl Source<'static> {
    /// A new database of the shared server.
    async fn new(database: &str) -> Source<'static> {
        Source::of(server(), database).await
    }
}

impl<'a> Source<'a> {
    async fn of(server: &'a Server, database: &str) -> Source<'a> {
        server
            .run_sql("postgres", &format!("CREATE DATABASE {database}"))
            .unwrap();
        let sql = connect(&server.superuser_connection(database)).await;
        Source {
            server,
            database: database.to_owned(),
            sql,
            settings: Vec::new(),
        }
    }

    /// With a setting for the sessions that stream.
    fn with(mut self, name: &str, value: &str) -> Source<'a> {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    async fn run(&self, sql: &str) {
        self.sql
            .batch_execute(sql)
            .await
            .unwrap_or_else(|error| panic!("{error:?}: {sql}"));
    }

    async fn value(&self, sql: &str) -> String {
        let row = self.sql.query_one(sql, &[]).await.unwrap();
        row.get::<_, Option<String>>(0).unwrap_or_default()
    }

    async fn open(&self) -> ReplicationConnection {
        self.try_open().await.unwrap()
    }

    async fn try_open(&self) -> Result<ReplicationConnection, ReplicationError> {
        let address = Address {
            host: "127.0.0.1".into(),
            port: self.server.port(),
        };
        let login = Login {
            user: "postgres".into(),
            credential: None,
            database: self.database.clone(),
            application_name: Some("stream".into()),
            parameters: self.settings.clone(),
        };
        ReplicationConnection::open(&address, &login, &ServerEncryption::Disable, DEADLINE).await
    }

    /// A slot of the database's name, and a publication `p` of all tables.
    async fn prepare(&self) -> NewSlot {
        self.run("CREATE PUBLICATION p FOR ALL TABLES").await;
        let mut connection = self.open().await;
        connection.create_slot(&self.slot_request()).await.unwrap()
    }

    fn slot(&self) -> SlotName {
        SlotName::new(self.database.clone()).unwrap()
    }

    fn slot_request(&self) -> SlotRequest {
        SlotRequest {
            name: self.slot(),
            lifetime: Lifetime::Permanent,
            snapshot: Snapshot::Nothing,
            two_phase: TwoPhase::AtCommit,
            failover: Failover::Lost,
        }
    }

    fn request(&self, from: Lsn) -> StreamRequest {
        StreamRequest {
            messages: Logical::Sent,
            ..StreamRequest::new(self.slot(), from, PublicationName::new("p").unwrap())
        }
    }

    async fn stream(&self, from: Lsn) -> ChangeStream {
        self.stream_of(&self.request(from)).await
    }

    /// Waits while the slot is still in use by a session that has just ended.
    async fn stream_of(&self, request: &StreamRequest) -> ChangeStream {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let started = self.open().await.start(request, Limits::default()).await;
            match started {
                Err(error) if error.sqlstate() == Some("55006") && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                started => return started.unwrap(),
            }
        }
    }

    /// What the slot knows to be confirmed.
    async fn confirmed(&self) -> Lsn {
        let slot = self.open().await.slot(&self.slot()).await.unwrap();
        slot.unwrap().confirmed.unwrap()
    }

    /// The end of what this test writes.
    async fn mark(&self) {
        self.run("SELECT pg_logical_emit_message(true, 'mark', '')")
            .await;
    }
}

async fn next(stream: &mut ChangeStream) -> Event<'_> {
    let event = timeout(DEADLINE, stream.next()).await;
    event.expect("an event in time").unwrap().expect("no end")
}

/// Writes a stream down, a line for each message, with tables by their names. Without places, times and numbers of transactions,
/// which are others each time.
#[derive(Default)]
struct Reader {
    tables: HashMap<RelationId, String>,
    lines: Vec<String>,
    /// Of the last commit: its end.
    end: Lsn,
}

impl Reader {
    /// Reads to the mark and to the end of its transaction.
    async fn to_mark(stream: &mut ChangeStream) -> Reader {
        let mut reader = Reader::default();
        loop {
            if let Event::Change { message, .. } = next(stream).await {
                reader.read(message);
            }
            let marked = reader.lines.iter().any(|line| line.contains("\"mark\""));
            if marked && reader.lines.last().is_some_and(|line| line == "commit") {
                let marked = reader.lines.len() - 3;
                assert_eq!(reader.lines[marked], "begin");
                reader.lines.truncate(marked);
                return reader;
            }
        }
    }

    fn read(&mut self, message: Message<'_>) {
        let line = match message {
            Message::Begin { commit, .. } => {
                assert!(commit >= self.end, "{commit} is before {}", self.end);
                "begin".to_owned()
            }
            Message::Commit { commit, end, .. } => {
                assert!(end > commit);
                self.end = end;
                "commit".to_owned()
            }
            Message::Relation { scope, relation } => {
                self.tables.insert(relation.id, relation.name.to_owned());
                let columns = relation.columns.map(|column| {
                    let key = if column.key == KeyPart::Key { "*" } else { "" };
                    format!("{}{key}", column.name)
                });
                let columns = columns.collect::<Vec<_>>().join(" ");
                let (schema, name) = (relation.schema, relation.name);
                format!(
                    "{}table {schema}.{name} ({columns}) {:?}",
                    within(scope),
                    relation.identity
                )
            }
            Message::Type {
                scope,
                schema,
                name,
                ..
            } => {
                format!("{}type {schema}.{name}", within(scope))
            }
            Message::Insert {
                scope,
                relation,
                row,
            } => {
                format!(
                    "{}insert {} {}",
                    within(scope),
                    self.tables[&relation],
                    values(row)
                )
            }
            Message::Update {
                scope,
                relation,
                old,
                new,
            } => {
                let table = &self.tables[&relation];
                let old = old.map_or(String::new(), |old| format!(" {}", identity(old)));
                format!("{}update {table}{old} -> {}", within(scope), values(new))
            }
            Message::Delete {
                scope,
                relation,
                old,
            } => {
                format!(
                    "{}delete {} {}",
                    within(scope),
                    self.tables[&relation],
                    identity(old)
                )
            }
            Message::Truncate {
                scope,
                relations,
                cascade,
                sequences,
            } => {
                let tables: Vec<&str> = relations.iter().map(|id| &*self.tables[&id]).collect();
                format!(
                    "{}truncate {} cascade={cascade} {sequences:?}",
                    within(scope),
                    tables.join(" ")
                )
            }
            Message::Message {
                scope,
                emission,
                prefix,
                content,
                ..
            } => {
                let content = content.escape_ascii();
                format!(
                    "{}message {emission:?} {prefix:?} [{content}]",
                    within(scope)
                )
            }
            Message::Origin { commit, name } => format!("origin {name} {commit}"),
            Message::StreamStart { segment, .. } => format!("piece {segment:?}"),
            Message::StreamStop => "end of piece".to_owned(),
            Message::StreamCommit { end, .. } => {
                self.end = end;
                "commit of pieces".to_owned()
            }
            Message::StreamAbort {
                xid,
                subtransaction,
                ..
            } => match xid == subtransaction {
                true => "abort of pieces".to_owned(),
                false => "abort in pieces".to_owned(),
            },
            Message::BeginPrepare(prepared) => format!("begin prepare {}", prepared.gid),
            Message::Prepare(prepared) => format!("prepare {}", prepared.gid),
            Message::StreamPrepare(prepared) => format!("prepare of pieces {}", prepared.gid),
            Message::CommitPrepared { gid, .. } => format!("commit prepared {gid}"),
            Message::RollbackPrepared { gid, .. } => format!("rollback prepared {gid}"),
        };
        self.lines.push(line);
    }

    fn text(&self) -> String {
        self.lines.join("\n")
    }
}

fn within(scope: Scope) -> &'static str {
    match scope {
        Scope::Whole => "",
        Scope::Streamed(_) => "+ ",
    }
}

fn identity(old: Identity<'_>) -> String {
    match old {
        Identity::Key(row) => format!("key {}", values(row)),
        Identity::Row(row) => format!("row {}", values(row)),
    }
}

fn values(row: Row<'_>) -> String {
    let mut out = String::from("(");
    for (index, value) in row.values().enumerate() {
        let space = if index > 0 { " " } else { "" };
        let _ = match value {
            Value::Null => write!(out, "{space}null"),
            Value::Unchanged => write!(out, "{space}unchanged"),
            Value::Text(text) if text.len() > 100 => write!(out, "{space}[{}]", text.len()),
            Value::Text(text) => write!(out, "{space}'{}'", String::from_utf8_lossy(text)),
            Value::Binary(bytes) => write!(out, "{space}\"{}\"", bytes.escape_ascii()),
        };
    }
    out + ")"
}

/// Without descriptions that say what was said before: a server forgets at any time what it has sent.
fn described_once<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    let is_told = |place: usize, line: &str| {
        let describes = line.starts_with("type ") || line.starts_with("table ");
        describes && lines[..place].contains(&line)
    };
    let lines_with_places = lines.iter().enumerate();
    lines_with_places
        .filter(|(place, line)| !is_told(*place, line))
        .map(|(_, line)| *line)
        .collect()
}

fn assert_lines(found: &str, expected: &str) {
    let expected: Vec<&str> = expected
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    let found: Vec<&str> = found.lines().collect();
    let (expected, found) = (described_once(&expected), described_once(&found));
    assert!(
        found == expected,
        "found:\n{}\nexpected:\n{}",
        found.join("\n"),
        expected.join("\n")
    );
}

#[tokio::test]
async fn every_kind_of_change() {
    let source = Source::new("changes").await;
    source
        .run(
            "CREATE TYPE mood AS ENUM ('sad', 'ok');
             CREATE TABLE t (id int PRIMARY KEY, big text, m mood);
             ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
             CREATE TABLE f (a int, b timestamptz, c float8);
             ALTER TABLE f REPLICA IDENTITY FULL;
             CREATE TABLE u (a int, b int NOT NULL UNIQUE, c text);
             ALTER TABLE u REPLICA IDENTITY USING INDEX u_b_key;",
        )
        .await;
    // Nothing of the role's own settings is in what is sent.
    source
        .run("ALTER DATABASE changes SET datestyle = 'German'; ALTER DATABASE changes SET extra_float_digits = -10; SET timezone = 'UTC'")
        .await;
    let slot = source.prepare().await;
    source
        .run("INSERT INTO t VALUES (1, repeat('x', 5000), 'ok'), (2, NULL, NULL)")
        .await;
    source.run("UPDATE t SET m = 'sad' WHERE id = 1").await;
    source.run("UPDATE t SET id = 3 WHERE id = 1").await;
    source.run("UPDATE t SET big = 'y' WHERE id = 3").await;
    source.run("DELETE FROM t WHERE id = 3").await;
    source
        .run("BEGIN; INSERT INTO f VALUES (1, '2020-02-02 12:00+00', 0.1), (2, NULL, 'NaN'); UPDATE f SET a = 5 WHERE a = 1; DELETE FROM f WHERE a = 2; COMMIT")
        .await;
    source.run("INSERT INTO u VALUES (1, 2, 'c')").await;
    source.run("UPDATE u SET b = 3").await;
    source.run("DELETE FROM u").await;
    source
        .run("SELECT pg_logical_emit_message(true, 'inside', 'a'); SELECT pg_logical_emit_message(false, 'at once', E'\\\\x00ff'::bytea)")
        .await;
    source
        .run("BEGIN; SELECT pg_logical_emit_message(true, 'void', ''); SELECT pg_logical_emit_message(false, 'anyway', ''); INSERT INTO t VALUES (9); ROLLBACK")
        .await;
    source
        .run("BEGIN; INSERT INTO t VALUES (4, 'a'); ALTER TABLE t ADD extra int DEFAULT 7; INSERT INTO t VALUES (5, 'b'); ALTER TABLE t DROP big; COMMIT")
        .await;
    source.run("INSERT INTO t VALUES (6, 'ok', 8)").await;
    source.run("TRUNCATE t, f RESTART IDENTITY").await;
    source.run("TRUNCATE u CASCADE").await;
    source
        .run(
            "SELECT pg_replication_origin_create('far'); SELECT pg_replication_origin_session_setup('far');
             BEGIN; SELECT pg_replication_origin_xact_setup('0/ABCDEF', '2021-01-01'); INSERT INTO u VALUES (1, 1); COMMIT;
             SELECT pg_replication_origin_session_reset()",
        )
        .await;
    source.mark().await;
    let mut stream = source.stream(slot.start).await;
    let reader = Reader::to_mark(&mut stream).await;
    assert_lines(
        &reader.text(),
        "begin
         type public.mood
         table public.t (id* big m) Default
         insert t ('1' [5000] 'ok')
         insert t ('2' null null)
         commit
         begin
         update t -> ('1' unchanged 'sad')
         commit
         begin
         update t key ('1' null null) -> ('3' unchanged 'sad')
         commit
         begin
         update t -> ('3' 'y' 'sad')
         commit
         begin
         delete t key ('3' null null)
         commit
         begin
         table public.f (a* b* c*) Full
         insert f ('1' '2020-02-02 12:00:00+00' '0.1')
         insert f ('2' null 'NaN')
         update f row ('1' '2020-02-02 12:00:00+00' '0.1') -> ('5' '2020-02-02 12:00:00+00' '0.1')
         delete f row ('2' null 'NaN')
         commit
         begin
         table public.u (a b* c) Index
         insert u ('1' '2' 'c')
         commit
         begin
         update u key (null '2' null) -> ('1' '3' 'c')
         commit
         begin
         delete u key (null '3' null)
         commit
         message Immediate \"at once\" [\\x00\\xff]
         begin
         message Transactional \"inside\" [a]
         commit
         message Immediate \"anyway\" []
         begin
         insert t ('4' 'a' null)
         type public.mood
         table public.t (id* big m extra) Default
         insert t ('5' 'b' null '7')
         commit
         begin
         type public.mood
         table public.t (id* m extra) Default
         insert t ('6' 'ok' '8')
         commit
         begin
         type public.mood
         table public.t (id* m extra) Default
         table public.f (a* b* c*) Full
         truncate t f cascade=false Restart
         commit
         begin
         table public.u (a b* c) Index
         truncate u cascade=true Continue
         commit
         begin
         origin far 0/ABCDEF
         table public.u (a b* c) Index
         insert u ('1' '1' null)
         commit",
    );
    // The same once more, in binary.
    drop(stream);
    let mut request = source.request(slot.start);
    request.format = Format::Binary;
    let mut stream = source.stream_of(&request).await;
    let binary = Reader::to_mark(&mut stream).await;
    assert_eq!(binary.lines.len(), reader.lines.len());
    assert!(binary.lines.contains(
        &"insert u (\"\\x00\\x00\\x00\\x01\" \"\\x00\\x00\\x00\\x02\" \"c\")".to_owned()
    ));
}

/// What a table is after all of a stream, in which transactions come in pieces and parts of them are taken back.
#[derive(Default)]
struct Copy {
    rows: HashMap<String, String>,
    /// Of each transaction in pieces, by the subtransaction.
    open: HashMap<Xid, Vec<(Xid, String, String)>>,
    current: Option<Xid>,
    pieces: usize,
    aborts: usize,
}

impl Copy {
    fn read(&mut self, message: Message<'_>) {
        match message {
            Message::StreamStart { xid, segment } => {
                assert_eq!(segment == Segment::First, !self.open.contains_key(&xid));
                self.open.entry(xid).or_default();
                self.current = Some(xid);
                self.pieces += 1;
            }
            Message::StreamStop => self.current = None,
            Message::Insert { scope, row, .. } => {
                let mut text = row.values().map(|value| match value {
                    Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
                    other => panic!("{other:?}"),
                });
                let (key, value) = (text.next().unwrap(), text.next().unwrap());
                match scope {
                    Scope::Whole => drop(self.rows.insert(key, value)),
                    Scope::Streamed(xid) => {
                        let current = self.current.unwrap();
                        self.open.get_mut(&current).unwrap().push((xid, key, value));
                    }
                }
            }
            Message::StreamAbort {
                xid,
                subtransaction,
                report,
            } => {
                assert_eq!(report, None);
                self.aborts += 1;
                match xid == subtransaction {
                    true => drop(self.open.remove(&xid)),
                    false => self
                        .open
                        .get_mut(&xid)
                        .unwrap()
                        .retain(|(of, _, _)| *of != subtransaction),
                }
            }
            Message::StreamCommit { xid, .. } => {
                let rows = self.open.remove(&xid).unwrap();
                self.rows
                    .extend(rows.into_iter().map(|(_, key, value)| (key, value)));
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn large_transactions_in_pieces() {
    let source = Source::new("pieces")
        .await
        .with("logical_decoding_work_mem", "64kB");
    source
        .run("CREATE TABLE t (id int PRIMARY KEY, text text)")
        .await;
    let slot = source.prepare().await;
    // Two at the same time, each with a subtransaction that is rolled back; one is rolled back as a whole.
    let other = connect(&source.server.superuser_connection("pieces")).await;
    let insert = |from: u32, to: u32| {
        format!(
            "INSERT INTO t SELECT g, repeat(g::text, 100) FROM generate_series({from}, {to}) g;"
        )
    };
    source
        .run(&format!(
            "BEGIN; {} SAVEPOINT a; {}",
            insert(1, 500),
            insert(501, 1000)
        ))
        .await;
    other
        .batch_execute(&format!(
            "BEGIN; {} SAVEPOINT b; {}",
            insert(2001, 2500),
            insert(2501, 3000)
        ))
        .await
        .unwrap();
    source
        .run(&format!("ROLLBACK TO a; {}", insert(1001, 1500)))
        .await;
    other
        .batch_execute(&format!("RELEASE b; {}", insert(3001, 3500)))
        .await
        .unwrap();
    source.run("COMMIT").await;
    other.batch_execute("COMMIT").await.unwrap();
    source
        .run(&format!(
            "BEGIN; {} ROLLBACK; {}",
            insert(5001, 6000),
            insert(7001, 7001)
        ))
        .await;
    source.mark().await;

    let mut request = source.request(slot.start);
    request.streaming = Streaming::On;
    let mut stream = source.stream_of(&request).await;
    let mut copy = Copy::default();
    loop {
        if let Event::Change { message, .. } = next(&mut stream).await {
            copy.read(message);
            if matches!(
                message,
                Message::Message {
                    emission: Emission::Transactional,
                    prefix: "mark",
                    ..
                }
            ) {
                break;
            }
        }
    }
    assert!(
        copy.open.is_empty() && copy.pieces > 6 && copy.aborts > 1,
        "{} pieces, {} aborts",
        copy.pieces,
        copy.aborts
    );
    let rows = source
        .sql
        .query("SELECT id::text, text FROM t", &[])
        .await
        .unwrap();
    let rows: HashMap<String, String> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(rows.len(), 2501);
    assert!(copy.rows == rows, "{} rows", copy.rows.len());

    // Whoever does not ask for pieces gets each when it has committed, whole.
    drop(stream);
    let mut stream = source.stream(slot.start).await;
    let reader = Reader::to_mark(&mut stream).await;
    assert_eq!(
        reader
            .lines
            .iter()
            .filter(|line| line.starts_with("insert"))
            .count(),
        2501
    );
    assert_eq!(
        reader.lines.iter().filter(|line| *line == "commit").count(),
        3
    );
}

#[tokio::test]
async fn prepared_transactions_when_they_are_prepared() {
    let source = Source::new("prepared")
        .await
        .with("logical_decoding_work_mem", "64kB");
    source
        .run("CREATE TABLE t (id int PRIMARY KEY, text text); CREATE PUBLICATION p FOR ALL TABLES")
        .await;
    let mut connection = source.open().await;
    let request = SlotRequest {
        two_phase: TwoPhase::AtPrepare,
        ..source.slot_request()
    };
    let slot = connection.create_slot(&request).await.unwrap();
    source
        .run("BEGIN; INSERT INTO t VALUES (1, 'a'); PREPARE TRANSACTION 'one'")
        .await;
    source.run("COMMIT PREPARED 'one'").await;
    source
        .run("BEGIN; INSERT INTO t VALUES (2, 'b'); PREPARE TRANSACTION 'two'")
        .await;
    source.run("ROLLBACK PREPARED 'two'").await;
    source.run("BEGIN; INSERT INTO t SELECT g, repeat('x', 500) FROM generate_series(1001, 1300) g; PREPARE TRANSACTION 'large'").await;
    source.run("COMMIT PREPARED 'large'").await;
    source.mark().await;
    let mut request = source.request(slot.start);
    request.two_phase = TwoPhase::AtPrepare;
    request.streaming = Streaming::On;
    let mut stream = source.stream_of(&request).await;
    let mut reader = Reader::to_mark(&mut stream).await;
    let rows = reader
        .lines
        .iter()
        .filter(|line| line.starts_with("+ insert"))
        .count();
    assert_eq!(rows, 300);
    reader.lines.retain(|line| {
        !line.starts_with("+ ") && !line.contains("piece F") && line != "end of piece"
    });
    assert_lines(
        &reader.text(),
        "begin prepare one
         table public.t (id* text) Default
         insert t ('1' 'a')
         prepare one
         commit prepared one
         begin prepare two
         insert t ('2' 'b')
         prepare two
         rollback prepared two
         prepare of pieces large
         commit prepared large",
    );
}

/// Reads so many commits; the end of the last, and the values of column 0 of all rows inserted.
async fn commits(stream: &mut ChangeStream, count: usize) -> (Lsn, Vec<String>) {
    let read = timeout(DEADLINE, read_commits(stream, count)).await;
    read.unwrap_or_else(|_| panic!("{count} commits do not come"))
}

async fn read_commits(stream: &mut ChangeStream, count: usize) -> (Lsn, Vec<String>) {
    let (mut last, mut seen, mut rows) = (Lsn(0), 0, Vec::new());
    while seen < count {
        match next(stream).await {
            Event::Change {
                message: Message::Commit { end, .. },
                ..
            } => {
                last = end;
                seen += 1;
            }
            Event::Change {
                message: Message::Insert { row, .. },
                ..
            } => match row.value(0) {
                Some(Value::Text(text)) => rows.push(String::from_utf8_lossy(text).into_owned()),
                other => panic!("{other:?}"),
            },
            _ => {}
        }
    }
    (last, rows)
}

fn numbers(range: std::ops::RangeInclusive<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn what_is_confirmed_is_not_sent_again_and_all_else_is() {
    let source = Source::new("confirming").await;
    source.run("CREATE TABLE t (id int PRIMARY KEY)").await;
    let slot = source.prepare().await;
    for id in 1..=10 {
        source.run(&format!("INSERT INTO t VALUES ({id})")).await;
    }
    let mut stream = source.stream(slot.start).await;
    let (end, rows) = commits(&mut stream, 4).await;
    assert_eq!(rows, numbers(1..=4));
    // More was received than is confirmed.
    commits(&mut stream, 2).await;
    assert!(stream.received() > end);
    stream.confirm(end).unwrap();
    stream.report().await.unwrap();
    let deadline = Instant::now() + DEADLINE;
    while source.confirmed().await != end {
        assert!(Instant::now() < deadline, "{} is not confirmed", end);
    }
    // The connection breaks. The slot knows by itself where to go on.
    drop(stream);
    let mut stream = source.stream(Lsn(0)).await;
    let (end, rows) = commits(&mut stream, 3).await;
    assert_eq!(rows, numbers(5..=7));
    // An end in good order; the connection can be used further, and so can the slot.
    stream.confirm(end).unwrap();
    let mut connection = stream.finish(DEADLINE).await.unwrap();
    let state = connection.slot(&source.slot()).await.unwrap().unwrap();
    assert_eq!((state.confirmed, state.active), (Some(end), None));
    assert_eq!(state.wal, Some(WalStatus::Reserved));
    assert!(state.restart.unwrap() <= end && state.retained.unwrap() > 0);
    let twice = connection
        .start(&source.request(Lsn(0)), Limits::default())
        .await;
    assert!(matches!(twice, Err(ReplicationError::Spent)));
    let mut stream = source.stream(Lsn(0)).await;
    assert_eq!(commits(&mut stream, 3).await.1, numbers(8..=10));
    // A place before what is confirmed begins there too, and one that the log has not reached is refused.
    drop(stream);
    let mut stream = source.stream(slot.start).await;
    assert_eq!(commits(&mut stream, 3).await.1, numbers(8..=10));
    let beyond = source.request(Lsn(u64::MAX >> 1));
    let lost = source.open().await.start(&beyond, Limits::default()).await;
    assert!(matches!(lost, Err(ReplicationError::LogLost { .. })));
}

/// Changes of others move on what can be confirmed, too: by keepalives.
#[tokio::test]
async fn an_idle_stream_follows_the_log() {
    let source = Source::new("idle")
        .await
        .with("wal_sender_timeout", "400ms");
    source
        .run("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION nothing")
        .await;
    source.prepare().await;
    let mut request = source.request(Lsn(0));
    request.publications = vec![PublicationName::new("nothing").unwrap()];
    let mut stream = source.stream_of(&request).await;
    source
        .run("INSERT INTO t SELECT generate_series(1, 1000)")
        .await;
    let written: Lsn = source
        .value("SELECT pg_current_wal_lsn()::text")
        .await
        .parse()
        .unwrap();
    loop {
        match next(&mut stream).await {
            Event::Keepalive { end, .. } => {
                stream.confirm(end).unwrap();
                if end >= written {
                    break;
                }
            }
            other => panic!("{other:?}"),
        }
    }
    stream.report().await.unwrap();
    let mut connection = stream.finish(DEADLINE).await.unwrap();
    assert!(
        connection
            .slot(&source.slot())
            .await
            .unwrap()
            .unwrap()
            .confirmed
            .unwrap()
            >= written
    );
}

#[tokio::test]
async fn a_server_that_is_killed_loses_nothing() {
    let mut cluster = own_cluster(1, 0);
    let (start, end);
    {
        let source = Source::of(&cluster.shards()[0].primary, "killed").await;
        source.run("CREATE TABLE t (id int PRIMARY KEY)").await;
        start = source.prepare().await.start;
        for id in 1..=10 {
            source.run(&format!("INSERT INTO t VALUES ({id})")).await;
        }
        let mut stream = source.stream(start).await;
        let (applied, rows) = commits(&mut stream, 6).await;
        assert_eq!(rows, numbers(1..=6));
        end = applied;
        stream.confirm(end).unwrap();
        cluster.shards_mut()[0]
            .primary
            .stop(StopMode::Kill)
            .unwrap();
        let broken = timeout(DEADLINE, async {
            while let Ok(Some(_)) = stream.next().await {}
        })
        .await;
        assert!(broken.is_ok(), "the end of the server was not seen");
    }
    cluster.shards_mut()[0].primary.start().unwrap();
    let primary = &cluster.shards()[0].primary;
    let source = Source {
        server: primary,
        database: "killed".to_owned(),
        sql: connect(&primary.superuser_connection("killed")).await,
        settings: Vec::new(),
    };
    source.run("INSERT INTO t VALUES (11)").await;
    let mut stream = source.stream(end).await;
    assert_eq!(commits(&mut stream, 5).await.1, numbers(7..=11));
    // The server did not hear of it, so without our own memory it begins where it knows of.
    drop(stream);
    let mut stream = source.stream(start).await;
    assert_eq!(commits(&mut stream, 11).await.1, numbers(1..=11));
}

#[tokio::test]
async fn a_server_that_is_shut_down_ends_the_stream_in_good_order() {
    let mut cluster = own_cluster(1, 0);
    let source = Source::of(&cluster.shards()[0].primary, "shut").await;
    source.run("CREATE TABLE t (id int PRIMARY KEY)").await;
    let slot = source.prepare().await;
    source.run("INSERT INTO t VALUES (1)").await;
    let mut stream = source.stream(slot.start).await;
    let (end, _) = commits(&mut stream, 1).await;
    stream.confirm(end).unwrap();
    let stopping = std::thread::spawn(move || {
        let stopped = cluster.shards_mut()[0].primary.stop(StopMode::Fast);
        (cluster, stopped)
    });
    // It waits until all is confirmed.
    let ended = async {
        while let Some(event) = stream.next().await.unwrap() {
            if let Event::Keepalive { end, .. } = event {
                stream.confirm(end).unwrap();
            }
        }
    };
    timeout(DEADLINE, ended).await.unwrap();
    let (cluster, stopped) = stopping.join().unwrap();
    stopped.unwrap();
    assert!(!cluster.shards()[0].primary.log().contains("SIGQUIT"));
}

/// A user that takes longer than the server's patience, and more than fits on the way.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_user_makes_the_server_wait() {
    let source = Source::new("slow").await.with("wal_sender_timeout", "1s");
    source.run("CREATE TABLE t (id int PRIMARY KEY, text text); ALTER TABLE t ALTER text SET STORAGE EXTERNAL").await;
    let slot = source.prepare().await;
    for part in 0..20 {
        source.run(&format!("INSERT INTO t SELECT {part} * 2000 + g, repeat('x', 2000) FROM generate_series(1, 2000) g")).await;
    }
    let connection = source.open().await;
    let sender = connection.process_id();
    let mut stream = connection
        .start(&source.request(slot.start), Limits::default())
        .await
        .unwrap();
    // On other threads than this one, as on the control plane.
    let (reached, waited) = (
        tokio::sync::oneshot::channel::<()>(),
        tokio::sync::oneshot::channel::<()>(),
    );
    let reading = tokio::spawn(async move {
        next(&mut stream).await;
        reached.0.send(()).unwrap();
        stream.during(waited.1).await.unwrap();
        let mut rows = 0;
        while rows < 40_000 {
            if let Event::Change {
                message: Message::Insert { .. },
                ..
            } = next(&mut stream).await
            {
                rows += 1;
            }
        }
        stream
    });
    reached.1.await.unwrap();
    let begun = Instant::now();
    let on_its_way = format!(
        "SELECT pg_wal_lsn_diff(sent_lsn, '{}')::int8::text FROM pg_stat_replication WHERE pid = {sender}",
        slot.start
    );
    while begun.elapsed() < Duration::from_secs(4) {
        // 80 MB wait; sent is what the sockets take. An empty answer would be a sender that has given up.
        let sent: i64 = source.value(&on_its_way).await.parse().unwrap();
        assert!(sent < 30_000_000, "{sent}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    waited.0.send(()).unwrap();
    let mut stream = timeout(DEADLINE, reading).await.unwrap().unwrap();
    assert!(stream.received() > slot.start);
    stream.confirm(stream.received()).unwrap();
    stream.report().await.unwrap();
    assert_eq!(
        source
            .value(&format!(
                "SELECT count(*)::text FROM pg_stat_replication WHERE pid = {sender}"
            ))
            .await,
        "1"
    );
}

#[tokio::test]
async fn snapshots_show_what_the_stream_does_not() {
    let source = Source::new("snapshots").await;
    source.run("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 5); CREATE PUBLICATION p FOR ALL TABLES").await;
    // Exported, for others.
    let mut connection = source.open().await;
    let request = SlotRequest {
        snapshot: Snapshot::Export,
        ..source.slot_request()
    };
    let slot = connection.create_slot(&request).await.unwrap();
    source
        .run("INSERT INTO t SELECT generate_series(6, 8)")
        .await;
    let snapshot = slot.snapshot.unwrap();
    source
        .run(&format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '{snapshot}'"
        ))
        .await;
    assert_eq!(source.value("SELECT max(id)::text FROM t").await, "5");
    source.run("COMMIT").await;
    let mut stream = source.stream(slot.start).await;
    assert_eq!(commits(&mut stream, 1).await.1, numbers(6..=8));
    drop(stream);

    // Used by the connection itself, with a slot that ends with it.
    connection
        .query("BEGIN ISOLATION LEVEL REPEATABLE READ")
        .await
        .unwrap();
    let request = SlotRequest {
        name: SlotName::new("snapshots_used").unwrap(),
        lifetime: Lifetime::Temporary,
        snapshot: Snapshot::Use,
        ..source.slot_request()
    };
    let used = connection.create_slot(&request).await.unwrap();
    source.run("INSERT INTO t VALUES (9)").await;
    let rows = connection
        .query("SELECT max(id), NULL FROM public.t")
        .await
        .unwrap();
    assert_eq!((rows[0].get(0), rows[0].get(1)), (Some("8"), None));
    connection.query("COMMIT").await.unwrap();
    let request = StreamRequest {
        slot: request.name.clone(),
        ..source.request(used.start)
    };
    let mut stream = connection.start(&request, Limits::default()).await.unwrap();
    assert_eq!(commits(&mut stream, 1).await.1, numbers(9..=9));
    drop(stream);
    let mut connection = source.open().await;
    let deadline = Instant::now() + DEADLINE;
    while connection.slot(&request.slot).await.unwrap().is_some() {
        assert!(
            Instant::now() < deadline,
            "a temporary slot outlives its connection"
        );
    }
}

#[tokio::test]
async fn what_is_refused_is_told_in_the_server_s_own_words() {
    let source = Source::new("refusals").await;
    source.run("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE \"odd \"\"name\" (id int PRIMARY KEY)").await;
    let slot = source.prepare().await;
    let mut connection = source.open().await;
    let system = connection.identify().await.unwrap();
    assert_eq!(system.database.as_deref(), Some("refusals"));
    assert!(system.identifier > 0 && system.timeline == 1 && system.flushed >= slot.start);

    let twice = connection
        .create_slot(&source.slot_request())
        .await
        .unwrap_err();
    assert_eq!(twice.sqlstate(), Some("42710"));
    assert!(
        twice
            .to_string()
            .contains("replication slot \"refusals\" already exists"),
        "{twice}"
    );
    let unknown = SlotName::new("no_such_slot").unwrap();
    let missing = connection
        .drop_slot(&unknown, WhenInUse::Refuse)
        .await
        .unwrap_err();
    assert_eq!(missing.sqlstate(), Some("42704"));
    assert_eq!(connection.slot(&unknown).await.unwrap(), None);

    let stream = source.stream(slot.start).await;
    let in_use = connection
        .drop_slot(&source.slot(), WhenInUse::Refuse)
        .await
        .unwrap_err();
    assert_eq!(in_use.sqlstate(), Some("55006"));
    let active = connection
        .slot(&source.slot())
        .await
        .unwrap()
        .unwrap()
        .active;
    assert!(active.is_some());
    let in_use = source
        .open()
        .await
        .start(&source.request(slot.start), Limits::default())
        .await;
    assert_eq!(in_use.unwrap_err().sqlstate(), Some("55006"));
    drop(stream);

    // A publication that does not exist is noticed at the first change.
    source.run("INSERT INTO t VALUES (1)").await;
    let mut request = source.request(slot.start);
    request.publications = vec![PublicationName::new("gone").unwrap()];
    let mut stream = source.stream_of(&request).await;
    let error = timeout(DEADLINE, async {
        loop {
            if let Err(error) = stream.next().await {
                return error;
            }
        }
    });
    let error = error.await.unwrap();
    assert_eq!(error.sqlstate(), Some("42704"));
    assert!(
        error
            .to_string()
            .contains("publication \"gone\" does not exist"),
        "{error}"
    );
    drop(stream);

    // Names go where they should.
    let name = PublicationName::new("odd \"p\", 'q'").unwrap();
    let tables = [("public", "odd \"name")];
    source
        .run(&publication::create(
            &name,
            &tables,
            publication::Partitions::Root,
        ))
        .await;
    source
        .run("INSERT INTO t VALUES (2); INSERT INTO \"odd \"\"name\" VALUES (3)")
        .await;
    let mut request = source.request(slot.start);
    request.publications = vec![name.clone(), PublicationName::new("p").unwrap()];
    let mut stream = source.stream_of(&request).await;
    // The publication was not there yet at the first change.
    let error = timeout(DEADLINE, async {
        loop {
            match stream.next().await {
                Ok(Some(Event::Change {
                    message: Message::Commit { .. },
                    ..
                })) => return None,
                Ok(_) => {}
                Err(error) => return Some(error),
            }
        }
    });
    assert_eq!(error.await.unwrap().unwrap().sqlstate(), Some("42704"));
    drop(stream);
    connection
        .drop_slot(&source.slot(), WhenInUse::Wait)
        .await
        .unwrap();
    let slot = connection
        .create_slot(&source.slot_request())
        .await
        .unwrap();
    source
        .run("INSERT INTO t VALUES (4); INSERT INTO \"odd \"\"name\" VALUES (5)")
        .await;
    source.mark().await;
    request.from = slot.start;
    request.publications = vec![name.clone()];
    let mut stream = source.stream_of(&request).await;
    assert_lines(
        &Reader::to_mark(&mut stream).await.text(),
        "begin
         table public.odd \"name (id*) Default
         insert odd \"name ('5')
         commit",
    );
    source.run(&publication::drop(&name)).await;
    source.run(&publication::drop(&name)).await;
}
