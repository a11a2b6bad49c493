//! Clients that write and read all the time, and remember what they were told: of each commit, of each error, and how long it took.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls, Statement};

use super::stage::Stage;
use crate::servers::wait_until;
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
}

/// Running clients.
pub struct Load {
    runtime: Runtime,
    clients: Vec<JoinHandle<Told>>,
    shared: Arc<Shared>,
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
}

impl Load {
    pub fn start(proxy: &Sharded, clients: usize) -> Load {
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
                connection: proxy.connection(),
                shared: Arc::clone(&shared),
                told: Told::default(),
            };
            runtime.spawn(worker.work())
        };
        let clients = (0..clients).map(start).collect();
        let load = Load {
            runtime,
            clients,
            shared,
        };
        load.progress(4 * load.clients.len());
        load
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
        };
        for (number, client) in self.clients.into_iter().enumerate() {
            let told = self.runtime.block_on(client).expect("a client panicked");
            let number = i32::try_from(number).expect("few");
            report
                .committed
                .extend(told.committed.iter().map(|n| (number, *n)));
            report.failures.extend(told.failures);
            report.longest = report.longest.max(told.longest);
            report.reads += told.reads;
        }
        self.runtime.shutdown_background();
        report
    }
}

impl Report {
    /// Holds it against what is there: nothing that was acknowledged is missing, and nothing that was said to be rolled back is there.
    #[track_caller]
    pub fn agrees_with(&self, stage: &Stage, primary: usize) {
        let there = ledger(stage, primary);
        let lost: Vec<_> = self.committed.difference(&there).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}\n{self}");
        for failure in &self.failures {
            let place = (failure.client, failure.n);
            assert!(
                failure.may_be_there() || !there.contains(&place),
                "it is there: {failure:?}"
            );
        }
    }

    /// One line for each kind of failure.
    fn kinds(&self) -> BTreeMap<(Doing, &str, &str), usize> {
        let mut kinds = BTreeMap::new();
        for failure in &self.failures {
            let kind = (failure.doing, &*failure.sqlstate, &*failure.message);
            *kinds.entry(kind).or_default() += 1;
        }
        kinds
    }
}

impl Failure {
    /// The client was told that nobody knows.
    pub fn may_be_there(&self) -> bool {
        self.message.contains("is not known")
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
        for ((doing, sqlstate, message), count) in self.kinds() {
            write!(f, "\n    {count} {doing:?}: {sqlstate} {message}")?;
        }
        Ok(())
    }
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
}

type Failed = (Doing, tokio_postgres::Error);

const INSERT: &str = "INSERT INTO ledger (client, n) VALUES ($1, $2)";
const ADD: &str =
    "INSERT INTO totals VALUES ($1, $2) ON CONFLICT (client) DO UPDATE SET n = excluded.n";
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
        Ok(Prepared {
            insert: prepare(INSERT).await?,
            add: prepare(ADD).await?,
            read: prepare(READ).await?,
            client,
        })
    }

    /// A write, and a read that must see it.
    async fn operate(&mut self, connection: &mut Option<Prepared>, n: i64) -> Result<(), Failed> {
        if connection.is_none() {
            *connection = Some(self.connect().await?);
        }
        let connection = connection.as_ref().expect("just made");
        self.write(connection, n).await?;
        self.told.committed.push(n);
        self.shared.committed.fetch_add(1, Ordering::Relaxed);
        let seen = self.read(connection).await?;
        assert_eq!(
            seen,
            Some(n),
            "client {} does not see its own commit",
            self.number
        );
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
