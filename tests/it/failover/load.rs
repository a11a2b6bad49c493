//! Clients that write and read all the time, and remember what they were told: of each commit, of each error, and how long it took.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls, Statement};

use super::stage::Stage;
use crate::raw::Raw;
use crate::servers::{DEADLINE, wait_until};
use crate::sharded::Sharded;

/// Each row tells which server took it, and when.
pub const SCHEMA: &str = "
    CREATE TABLE ledger (client int, n bigint, port int NOT NULL DEFAULT current_setting('port')::int,
        at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (client, n));
    CREATE TABLE totals (client int PRIMARY KEY, n bigint NOT NULL);
    CREATE TABLE seen (id int PRIMARY KEY, v bigint NOT NULL);
    CREATE TABLE things (id bigint PRIMARY KEY, v bigint NOT NULL);
";

/// From one operation of a client to its next, so that the machine is left to others as well.
const REST: Duration = Duration::from_millis(2);

/// How a client speaks. In turn, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Simple,
    Prepared,
    SimpleBlock,
    PreparedBlock,
}

const MANNERS: [Manner; 4] = [
    Manner::Simple,
    Manner::Prepared,
    Manner::SimpleBlock,
    Manner::PreparedBlock,
];

/// How a client reads that only reads. In turn, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Simple,
    /// Parsed each time.
    Extended,
    /// Parsed once, by name.
    Prepared,
    /// Three of these sent before the first is answered.
    Pipelined,
    /// `COPY ... TO STDOUT`.
    Copy,
    /// `EXECUTE`, of a statement of `PREPARE`.
    Execute,
}

const READINGS: [Reading; 6] = [
    Reading::Simple,
    Reading::Extended,
    Reading::Prepared,
    Reading::Pipelined,
    Reading::Copy,
    Reading::Execute,
];

/// What a client was doing when it was told of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doing {
    Connecting,
    Preparing,
    Beginning,
    /// In a transaction of its own.
    Writing,
    /// In a block.
    WritingInBlock,
    Committing,
    Reading,
}

#[derive(Clone, Debug)]
pub struct Failure {
    pub client: i32,
    pub n: i64,
    pub doing: Doing,
    pub sqlstate: String,
    pub message: String,
}

/// What one client has to tell.
#[derive(Default)]
struct Told {
    committed: Vec<i64>,
    failures: Vec<Failure>,
    /// Of one operation that ended well, with what was needed to connect again.
    longest: Duration,
    reads: usize,
    by_port: BTreeMap<i32, usize>,
    /// Commits of its own that its next read did not see.
    unseen: Vec<i64>,
}

/// Running clients.
pub struct Load {
    runtime: Runtime,
    clients: Vec<JoinHandle<Told>>,
    shared: Arc<Shared>,
    /// The proxy's.
    port: u16,
}

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    committed: AtomicUsize,
    read: AtomicUsize,
}

/// What all clients have to tell.
pub struct Report {
    pub committed: BTreeSet<(i32, i64)>,
    pub failures: Vec<Failure>,
    pub longest: Duration,
    pub reads: usize,
    /// Of those who only read: by the port of the server that answered.
    by_port: BTreeMap<i32, usize>,
    /// Commits that the next read of the same client did not see.
    unseen: Vec<(i32, i64)>,
}

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Duties {
    /// Each write, and a read that must see it.
    Writes,
    Reads,
}

impl Load {
    /// Clients that write, and read what they have written.
    pub fn start(proxy: &Sharded, clients: usize) -> Load {
        Load::start_at(proxy.port, clients)
    }

    /// Likewise, by the proxy's port.
    pub fn start_at(port: u16, clients: usize) -> Load {
        let load = Load::begin(port, clients, Duties::Writes);
        load.progress(4 * clients);
        load
    }

    /// Clients that read `things` outside transactions.
    pub fn start_reading(proxy: &Sharded, clients: usize) -> Load {
        Load::begin(proxy.port, clients, Duties::Reads)
    }

    fn begin(port: u16, clients: usize, duties: Duties) -> Load {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let shared = Arc::new(Shared::default());
        let start = |number: usize| {
            let worker = Worker {
                number: i32::try_from(number).expect("few"),
                manner: MANNERS[number % MANNERS.len()],
                duties,
                connection: format!("host=127.0.0.1 port={port} user=app dbname=app"),
                shared: Arc::clone(&shared),
                told: Told::default(),
            };
            runtime.spawn(worker.work())
        };
        let clients = (0..clients).map(start).collect();
        Load {
            runtime,
            clients,
            shared,
            port,
        }
    }

    pub fn commits(&self) -> usize {
        self.shared.committed.load(Ordering::Relaxed)
    }

    /// Waits for so many commits more.
    pub fn progress(&self, more: usize) {
        let before = self.commits();
        wait_until("the clients go on", || self.commits() >= before + more);
    }

    /// Waits for so many reads more.
    pub fn reads(&self, more: usize) {
        let before = self.shared.read.load(Ordering::Relaxed);
        wait_until("the clients read on", || {
            self.shared.read.load(Ordering::Relaxed) >= before + more
        });
    }

    /// The clients end what they do and leave.
    pub fn end(self) -> Report {
        self.shared.over.store(true, Ordering::Relaxed);
        let mut report = Report {
            committed: BTreeSet::new(),
            failures: Vec::new(),
            longest: Duration::ZERO,
            reads: 0,
            by_port: BTreeMap::new(),
            unseen: Vec::new(),
        };
        for (number, client) in self.clients.into_iter().enumerate() {
            let ended = self
                .runtime
                .block_on(async { timeout(DEADLINE, client).await });
            let ended =
                ended.unwrap_or_else(|_| panic!("client {number} hangs\n{}", inside(self.port)));
            let told = ended.expect("a client panicked");
            let number = i32::try_from(number).expect("few");
            report
                .committed
                .extend(told.committed.iter().map(|n| (number, *n)));
            report.failures.extend(told.failures);
            report.longest = report.longest.max(told.longest);
            report.reads += told.reads;
            report
                .unseen
                .extend(told.unseen.iter().map(|n| (number, *n)));
            for (port, count) in told.by_port {
                *report.by_port.entry(port).or_default() += count;
            }
        }
        self.runtime.shutdown_background();
        report
    }
}

impl Report {
    /// Holds it against what is there: nothing that was acknowledged is missing, and nothing that was said to be rolled back is there.
    #[track_caller]
    pub fn agrees_with(&self, stage: &Stage, primary: usize) {
        assert!(
            self.unseen.is_empty(),
            "not seen: {:?}\n{self}",
            self.unseen
        );
        let lost = self.lost(stage, primary);
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}\n{self}");
        let there = ledger(stage, primary);
        for failure in &self.failures {
            let place = (failure.client, failure.n);
            assert!(
                failure.may_be_there() || !there.contains(&place),
                "it is there: {failure:?}"
            );
        }
    }

    /// What was acknowledged and is not there.
    pub fn lost(&self, stage: &Stage, primary: usize) -> Vec<(i32, i64)> {
        let there = ledger(stage, primary);
        self.committed.difference(&there).copied().collect()
    }

    /// How many reads this server has answered.
    pub fn read_from(&self, port: u16) -> usize {
        self.by_port
            .get(&i32::from(port))
            .copied()
            .unwrap_or_default()
    }

    /// One line for each kind of failure.
    fn kinds(&self) -> BTreeMap<(Doing, &str, &str), Vec<i32>> {
        let mut kinds = BTreeMap::new();
        for failure in &self.failures {
            let kind = (failure.doing, &*failure.sqlstate, &*failure.message);
            let clients: &mut Vec<i32> = kinds.entry(kind).or_default();
            clients.push(failure.client);
        }
        kinds
    }
}

impl Failure {
    /// Of one who reads by COPY.
    pub fn is_of_copy(&self) -> bool {
        let place = usize::try_from(self.client).expect("not negative");
        READINGS[place % READINGS.len()] == Reading::Copy
    }

    /// The client was told that nobody knows. What it reads it has committed before.
    pub fn may_be_there(&self) -> bool {
        let unheard = self.sqlstate == "none" && self.doing == Doing::Committing;
        self.message.contains("is not known") || unheard || self.doing == Doing::Reading
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} commits and {} reads, {} errors, longest operation {:?}",
            self.committed.len(),
            self.reads,
            self.failures.len(),
            self.longest
        )?;
        for ((doing, sqlstate, message), clients) in self.kinds() {
            let count = clients.len();
            write!(
                f,
                "\n    {count} {doing:?}: {sqlstate} {message} (clients {clients:?})"
            )?;
        }
        Ok(())
    }
}

/// What a client may be told of a transaction that was under way. "none": its driver was between two statements, and saw the connection go.
const LOST: [&str; 5] = ["57P01", "57P02", "08006", "40003", "none"];

/// Only what was under way has failed, and that no more than once for each client.
#[track_caller]
pub fn only_what_was_under_way(report: &Report, clients: usize, what: &str) {
    assert!(report.failures.len() <= 2 * clients, "{what}: {report}");
    let mut in_answers = 0;
    for failure in &report.failures {
        assert!(
            LOST.contains(&&*failure.sqlstate),
            "{what}: {failure:?}\n{report}"
        );
        let doing = failure.doing;
        let may_fail = matches!(
            doing,
            Doing::Writing | Doing::WritingInBlock | Doing::Committing
        );
        // Of an answer a client may have a part, and then it can only be told.
        let in_answer = failure
            .message
            .starts_with("the server connection was lost");
        in_answers += usize::from(!may_fail);
        assert!(may_fail || in_answer, "{what}: {failure:?}\n{report}");
        if doing == Doing::WritingInBlock {
            assert!(!failure.may_be_there(), "{failure:?}");
        }
    }
    assert!(in_answers <= clients / 2, "{what}: {report}");
}

/// How a proxy sees its clients, when something is wrong with them.
fn inside(port: u16) -> String {
    let mut admin = Raw::connect(port, "app", "trunkline");
    let shown = ["SHOW CLIENTS", "SHOW POOLS", "SHOW NODES"].map(|show| {
        let answer = admin.simple(show);
        let names = answer.columns[0].iter().map(|(name, ..)| name.as_str());
        let names = names.collect::<Vec<_>>().join(" ");
        format!("{show}\n{names}\n{}", answer.lines().join("\n"))
    });
    shown.join("\n")
}

/// What a node has.
pub fn ledger(stage: &Stage, place: usize) -> BTreeSet<(i32, i64)> {
    let rows = stage
        .node(0, place)
        .run_sql("app", "SELECT client, n FROM ledger")
        .unwrap_or_else(|e| panic!("{e}"));
    let number = |text: &Option<String>| -> i64 {
        let text = text.as_ref().expect("not null");
        text.parse().expect("a number")
    };
    let place = |row: &Vec<_>| {
        (
            i32::try_from(number(&row[0])).expect("small"),
            number(&row[1]),
        )
    };
    rows.iter().map(place).collect()
}

struct Worker {
    number: i32,
    manner: Manner,
    duties: Duties,
    connection: String,
    shared: Arc<Shared>,
    told: Told,
}

/// A connection with what was prepared on it.
struct Prepared {
    client: Client,
    insert: Statement,
    add: Statement,
    read: Statement,
    look: Statement,
}

type Failed = (Doing, tokio_postgres::Error);

const INSERT: &str = "INSERT INTO ledger (client, n) VALUES ($1, $2)";
const ADD: &str =
    "INSERT INTO totals VALUES ($1, $2) ON CONFLICT (client) DO UPDATE SET n = excluded.n";
const LOOK: &str = "SELECT v, current_setting('port')::int FROM things WHERE id = $1";
const READ: &str = "SELECT max(n) FROM ledger WHERE client = $1";

impl Worker {
    async fn work(mut self) -> Told {
        let mut connection = None;
        let mut began = None;
        let mut n = 0;
        while !self.shared.over.load(Ordering::Relaxed) {
            // Over a failure and what it takes to be back.
            let since = *began.get_or_insert_with(Instant::now);
            n += 1;
            match self.operate(&mut connection, n).await {
                Ok(()) => {
                    self.told.longest = self.told.longest.max(since.elapsed());
                    began = None;
                }
                Err((doing, error)) => {
                    let told = error.as_db_error();
                    self.told.failures.push(Failure {
                        client: self.number,
                        n,
                        doing,
                        sqlstate: told.map_or("none", |told| told.code().code()).to_owned(),
                        message: match told {
                            Some(told) => told.message().to_owned(),
                            None => error.to_string(),
                        },
                    });
                    let closed = |connection: &Prepared| connection.client.is_closed();
                    let fatal = told.is_none_or(|told| told.severity() == "FATAL");
                    if fatal || connection.as_ref().is_none_or(closed) {
                        connection = None;
                    } else if let Some(connection) = &connection {
                        let _ = connection.client.batch_execute("ROLLBACK").await;
                    }
                }
            }
            tokio::time::sleep(REST).await;
        }
        self.told
    }

    async fn connect(&self) -> Result<Prepared, Failed> {
        let (client, connection) = tokio_postgres::connect(&self.connection, NoTls)
            .await
            .map_err(|error| (Doing::Connecting, error))?;
        tokio::spawn(connection);
        let prepare = async |text| {
            let prepared = client.prepare(text).await;
            prepared.map_err(|error| (Doing::Preparing, error))
        };
        let looked = format!("PREPARE looked (bigint) AS {LOOK}");
        let in_sql = client.batch_execute(&looked).await;
        in_sql.map_err(|error| (Doing::Preparing, error))?;
        Ok(Prepared {
            insert: prepare(INSERT).await?,
            add: prepare(ADD).await?,
            read: prepare(READ).await?,
            look: prepare(LOOK).await?,
            client,
        })
    }

    /// A write, and a read that must see it.
    async fn operate(&mut self, connection: &mut Option<Prepared>, n: i64) -> Result<(), Failed> {
        if connection.is_none() {
            *connection = Some(self.connect().await?);
        }
        let connection = connection.as_ref().expect("just made");
        if self.duties == Duties::Reads {
            let port = self.look(connection, n % 100 + 1).await?;
            *self.told.by_port.entry(port).or_default() += 1;
            self.told.reads += 1;
            self.shared.read.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        self.write(connection, n).await?;
        self.told.committed.push(n);
        self.shared.committed.fetch_add(1, Ordering::Relaxed);
        let seen = self.read(connection).await?;
        if seen != Some(n) {
            self.told.unseen.push(n);
        }
        self.told.reads += 1;
        self.shared.read.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn write(&self, connection: &Prepared, n: i64) -> Result<(), Failed> {
        let Prepared {
            client,
            insert,
            add,
            ..
        } = connection;
        let number = self.number;
        let texts = (
            format!("INSERT INTO ledger (client, n) VALUES ({number}, {n})"),
            format!(
                "INSERT INTO totals VALUES ({number}, {n}) ON CONFLICT (client) DO UPDATE SET n = excluded.n"
            ),
        );
        let simple = async |doing, text: &str| {
            let done = client.batch_execute(text).await;
            done.map_err(|error| (doing, error))
        };
        let prepared = async |doing, statement| {
            let done = client.execute(statement, &[&number, &n]).await;
            done.map(drop).map_err(|error| (doing, error))
        };
        match self.manner {
            Manner::Simple => simple(Doing::Writing, &texts.0).await,
            Manner::Prepared => prepared(Doing::Writing, insert).await,
            Manner::SimpleBlock => {
                simple(Doing::Beginning, "BEGIN").await?;
                simple(Doing::WritingInBlock, &texts.0).await?;
                simple(Doing::WritingInBlock, &texts.1).await?;
                simple(Doing::Committing, "COMMIT").await
            }
            Manner::PreparedBlock => {
                simple(Doing::Beginning, "BEGIN").await?;
                prepared(Doing::WritingInBlock, insert).await?;
                prepared(Doing::WritingInBlock, add).await?;
                simple(Doing::Committing, "COMMIT").await
            }
        }
    }

    /// Reads one thing, and gives the port of the server that answers.
    async fn look(&self, connection: &Prepared, id: i64) -> Result<i32, Failed> {
        let (client, look) = (&connection.client, &connection.look);
        let text = LOOK.replace("$1", &id.to_string());
        let place = usize::try_from(self.number).expect("not negative");
        let read = match READINGS[place % READINGS.len()] {
            Reading::Simple => looked(client, &text).await,
            Reading::Extended => {
                let rows = client.query_typed(LOOK, &[(&id, Type::INT8)]).await;
                rows.map(|rows| (rows[0].get(0), rows[0].get(1)))
            }
            Reading::Prepared => {
                let row = client.query_one(look, &[&id]).await;
                row.map(|row| (row.get(0), row.get(1)))
            }
            Reading::Pipelined => {
                let one = async || client.query_one(look, &[&id]).await;
                let rows = futures_util::try_join!(one(), one(), one());
                rows.map(|(row, ..)| (row.get(0), row.get(1)))
            }
            Reading::Copy => copied(client, &text).await,
            Reading::Execute => looked(client, &format!("EXECUTE looked ({id})")).await,
        };
        let (v, port): (i64, i32) = read.map_err(|error| (Doing::Reading, error))?;
        assert_eq!(v, id);
        Ok(port)
    }

    async fn read(&self, connection: &Prepared) -> Result<Option<i64>, Failed> {
        let failed = |error| (Doing::Reading, error);
        let client = &connection.client;
        match self.manner {
            Manner::Simple | Manner::SimpleBlock => {
                let text = format!("SELECT max(n) FROM ledger WHERE client = {}", self.number);
                let messages = client.simple_query(&text).await.map_err(failed)?;
                let row = messages.iter().find_map(|message| match message {
                    tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
                    _ => None,
                });
                Ok(row.map(|text| text.parse().expect("a number")))
            }
            Manner::Prepared | Manner::PreparedBlock => {
                let read = &connection.read;
                let row = client
                    .query_one(read, &[&self.number])
                    .await
                    .map_err(failed)?;
                Ok(row.get(0))
            }
        }
    }
}

/// The two numbers of one row.
async fn looked(client: &Client, text: &str) -> Result<(i64, i32), tokio_postgres::Error> {
    let messages = client.simple_query(text).await?;
    let row = messages.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let row = row.expect("it is there");
    let [v, port] = [0, 1].map(|place| row.get(place).expect("not null"));
    Ok((
        v.parse().expect("a number"),
        port.parse().expect("a number"),
    ))
}

/// The same by COPY.
async fn copied(client: &Client, text: &str) -> Result<(i64, i32), tokio_postgres::Error> {
    let stream = client.copy_out(&format!("COPY ({text}) TO STDOUT")).await?;
    let parts: Vec<_> = stream.try_collect().await?;
    let line = String::from_utf8(parts.concat()).expect("text");
    let (v, port) = line.trim_end().split_once('\t').expect("two columns");
    Ok((
        v.parse().expect("a number"),
        port.parse().expect("a number"),
    ))
}
