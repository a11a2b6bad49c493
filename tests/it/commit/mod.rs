//! Commits of several shards while connections, proxies and shards fail: on all shards or on none, and nothing stays behind.
//!
//! `steps.rs` goes through the commit step by step, `bank.rs` and `history.rs` through much work at once. The proxies are processes, which can be
//! killed; `cutting.rs` stands between them and the shards.

mod bank;
pub mod cutting;
mod history;
mod steps;

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use trunkline::cli::local::{Cluster, ClusterOptions, ServerOptions, StopMode};

use crate::raw::{Answer, Message, Raw};
use crate::servers::DEADLINE;
use crate::sharded::succeeded;

/// How long a client waits for an answer before the test says that it hangs.
const PATIENCE: Duration = Duration::from_secs(45);

/// How long something of ours may stay prepared on shards that are up.
const BOUND: Duration = Duration::from_secs(8);

/// From one look at a condition to the next.
const LOOK: Duration = Duration::from_millis(10);

const SCHEMA: &str = "
    CREATE TABLE kv (k int PRIMARY KEY, v text);
    CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL);
    CREATE TABLE entries (account int, transfer bigint, amount bigint NOT NULL, PRIMARY KEY (transfer, account));
    CREATE TABLE lists (id int PRIMARY KEY, elements bigint[] NOT NULL);
";

const TABLES: &str = r#"
[[distributions]]
name = "d"
strategy = "hash"
key = "integer"
shards = ["s1", "s2", "s3", "s4"]
[[tables]]
name = "kv"
distribution = "d"
key = "k"
[[tables]]
name = "accounts"
distribution = "d"
key = "id"
[[tables]]
name = "entries"
distribution = "d"
key = "account"
[[tables]]
name = "lists"
distribution = "d"
key = "id"
"#;

/// Four shards of the test's own with the tables, to kill and to stop. Waits for locks end by themselves, so that transactions which wait for
/// each other on different shards do not hold up the test.
fn shards() -> Cluster {
    let settings = [
        ("max_prepared_transactions", "64"),
        ("deadlock_timeout", "100ms"),
        ("lock_timeout", "1s"),
        ("tcp_keepalives_idle", "1"),
        ("tcp_keepalives_interval", "1"),
        ("tcp_keepalives_count", "2"),
    ];
    let options = ClusterOptions {
        shards: Some(4),
        replicas: Some(0),
        server: ServerOptions {
            settings: settings
                .map(|(name, value)| (name.into(), value.into()))
                .into(),
            ..ServerOptions::default()
        },
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(options).unwrap_or_else(|e| panic!("{e}"));
    for shard in cluster.shards() {
        let mut shard = Raw::connect(shard.primary.port(), "app", "app");
        succeeded(SCHEMA, &shard.simple(SCHEMA));
    }
    cluster
}

fn ports(cluster: &Cluster) -> Vec<u16> {
    let shards = cluster.shards().iter();
    shards.map(|shard| shard.primary.port()).collect()
}

/// kill -9 of a shard, and its start.
fn kill_shard(cluster: &mut Cluster, shard: usize) {
    let server = &mut cluster.shards_mut()[shard].primary;
    server
        .stop(StopMode::Kill)
        .unwrap_or_else(|e| panic!("{e}"));
    server.start().unwrap_or_else(|e| panic!("{e}"));
}

/// The first column of all rows of a query on one shard, as text.
fn column(port: u16, sql: &str) -> Vec<String> {
    let mut shard = Raw::connect(port, "postgres", "app");
    let answer = shard.simple(sql);
    succeeded(sql, &answer);
    texts(&answer)
}

fn texts(answer: &Answer) -> Vec<String> {
    let values = answer.rows.iter().map(|row| row[0].clone());
    values
        .map(|value| String::from_utf8(value.unwrap_or_default()).expect("text"))
        .collect()
}

/// What is prepared on all shards, whosever it is.
fn prepared(ports: &[u16]) -> Vec<String> {
    let asked = "SELECT current_setting('port') || ' ' || gid FROM pg_prepared_xacts";
    ports.iter().flat_map(|port| column(*port, asked)).collect()
}

/// Whether the condition came to hold in this time.
fn comes_true(within: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + within;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(LOOK);
    }
}

/// The program, as a process that can be killed.
struct Proxy {
    port: u16,
    folder: TempDir,
    child: Option<Child>,
}

impl Proxy {
    /// In front of these servers; it serves.
    fn start(servers: &[u16]) -> Proxy {
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let mut text = format!(
            "workers = 2\nusers = [{{ name = \"app\", auth = \"trust\", admin = true }}]\n\
             databases = [{{ name = \"app\", default_shard = \"s1\" }}]\n\
             [listen]\naddresses = [\"127.0.0.1:{port}\"]\nhttp = \"off\"\n[server_tls]\nmode = \"disable\"\n\
             [transactions]\ncross_shard_commit = \"atomic\"\nprepare_timeout = \"500ms\"\nrecovery_interval = \"200ms\"\n\
             [health]\ninterval = \"200ms\"\n[pool]\nconnect_timeout = \"2s\"\ncheckout_timeout = \"5s\"\n"
        );
        for (place, server) in servers.iter().enumerate() {
            text += &format!(
                "[[shards]]\nname = \"s{}\"\nnodes = [{{ host = \"127.0.0.1\", port = {server} }}]\n",
                place + 1
            );
        }
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("trunkline.toml"), text + TABLES).expect("it is written");
        let mut proxy = Proxy {
            port,
            folder,
            child: None,
        };
        proxy.launch();
        proxy.await_service();
        proxy
    }

    /// Waits until it commits on several shards.
    fn await_service(&mut self) {
        let serves = comes_true(DEADLINE, || {
            let child = self.child.as_mut().expect("it was launched");
            let ended = child.try_wait().expect("it is ours");
            assert_eq!(ended, None, "the proxy ended");
            self.commits()
        });
        assert!(serves, "the proxy does not serve");
    }

    /// Always on the same port with the same configuration.
    fn launch(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .expect("a log");
        let child = Command::new(env!("CARGO_BIN_EXE_trunkline"))
            .arg("serve")
            .arg(self.folder.path().join("trunkline.toml"))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        self.child = Some(child);
    }

    fn commits(&self) -> bool {
        let Ok(Ok(mut client)) = self.connect() else {
            return false;
        };
        // Nobody can say so before the definitions have been read.
        let unknown = client.try_simple("SELECT 1 FROM no_table_has_this_name");
        let unknown = unknown.ok().and_then(|answer| answer.error);
        if unknown.is_none_or(|error| error.sqlstate() != "42P01") {
            return false;
        }
        let written = client.try_simple("DELETE FROM kv WHERE k < 0");
        written.is_ok_and(|answer| answer.error.is_none())
    }

    fn connect(&self) -> io::Result<Result<Raw, Message>> {
        Raw::attempt(self.port, "app", "app", PATIENCE)
    }

    /// kill -9
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it is ours");
            child.wait().expect("it has ended");
        }
    }

    /// The end of its log.
    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("the log of the proxy on {}:\n{}", self.port, self.log());
        }
    }
}

/// What a client knows of its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Committed,
    Failed,
    Unknown,
}

/// A transaction as a client sees it: what it was told of its end, and in which words.
fn told(answer: &io::Result<Answer>, ends_with: &str) -> (Told, String) {
    match answer {
        Err(error) => (Told::Unknown, error.to_string()),
        Ok(answer) => match &answer.error {
            Some(error) if error.sqlstate() == "08007" => (Told::Unknown, format!("{error:?}")),
            Some(error) => (Told::Failed, format!("{error:?}")),
            None if answer.tags.last().is_some_and(|tag| tag == ends_with) => {
                (Told::Committed, String::new())
            }
            // A driver would take it for a success.
            None => panic!(
                "{ends_with} is answered {:?}, without an error",
                answer.tags
            ),
        },
    }
}
