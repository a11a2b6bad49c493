//! Servers that all tests share, and small ways to talk to them.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};
use trunkline::cli::local::{Cluster, ClusterOptions, LocalError, Server};

/// How long a test waits for something that must happen.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Four shards without replicas, and one server outside them to compare with. On each: role `app` (no password asked)
/// that owns database `app`, and the superuser `postgres`.
pub struct Servers {
    pub cluster: Cluster,
    pub plain: Server,
}

/// The shared servers. They are never stopped by a test; a watchdog ends them with this process.
pub fn servers() -> &'static Servers {
    static SERVERS: OnceLock<Servers> = OnceLock::new();
    SERVERS.get_or_init(|| {
        let started = Cluster::start(ClusterOptions::default()).and_then(|cluster| {
            Ok(Servers {
                plain: cluster.single_server("plain")?,
                cluster,
            })
        });
        started.unwrap_or_else(|e| panic!("{e}"))
    })
}

/// The shared cluster.
pub fn cluster() -> &'static Cluster {
    &servers().cluster
}

/// A cluster that is the test's own, to stop and break.
pub fn own_cluster(shards: u16, replicas: u16) -> Cluster {
    let options = ClusterOptions {
        shards: Some(shards),
        replicas: Some(replicas),
        ..ClusterOptions::default()
    };
    Cluster::start(options).unwrap_or_else(|e| panic!("{e}"))
}

/// A superuser's connection to a new, empty database of this name on the plain server.
pub async fn own_database(name: &str) -> Client {
    let server = &servers().plain;
    server
        .run_sql("postgres", &format!("CREATE DATABASE {name}"))
        .unwrap_or_else(|e| panic!("{e}"));
    connect(&server.superuser_connection(name)).await
}

/// A client whose connection is served by a task of the test's runtime.
pub async fn connect(connection: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(connection, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The first column of the first row, as text.
pub fn value(server: &Server, database: &str, sql: &str) -> Result<String, LocalError> {
    let rows = server.run_sql(database, sql)?;
    let value = rows
        .into_iter()
        .next()
        .and_then(|row| row.into_iter().next())
        .flatten();
    Ok(value.unwrap_or_default())
}

/// Waits until the condition holds; panics with `what` when it does not within the deadline.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
